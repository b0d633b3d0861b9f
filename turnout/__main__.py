"""`python -m turnout` is the command `turnout`."""

from turnout.control.entry import main

if __name__ == "__main__":
    main()
