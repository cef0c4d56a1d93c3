"""Write docs/comparison.md anew."""

from purenets.core.runs.files import write_atomically
from tests.comparison.page import PAGE, page

write_atomically(PAGE, page().encode())
