"""`python -m inceptionv4`, which is what launchers such as torchrun start."""

from inceptionv4.cli import main

if __name__ == "__main__":
    main()
