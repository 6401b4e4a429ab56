"""`python -m lingshu_tools.cli`: the command `lingshu`."""

from lingshu_tools.cli import main

if __name__ == "__main__":
    main()
