"""What the sweeps of trainings on images share."""

from scripts.shared.sweeps import images_of


def test_the_images_are_named_by_the_commands():
    plain = {"command": "python scripts/cnn_train.py --learning_rate 0.001 --out runs/a"}
    folder = {"command": "python scripts/cnn_train.py --data folder --data_dir 'data/my set'"}
    moved = {"command": "python scripts/cnn_train.py --data_dir elsewhere --out runs/a"}
    assert images_of([plain, moved]) == "CIFAR-10"
    assert images_of([folder, folder]) == "my set"
    assert images_of([plain, folder]) != "CIFAR-10"
