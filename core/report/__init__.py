"""Tables, figures and documents of what was trained."""
