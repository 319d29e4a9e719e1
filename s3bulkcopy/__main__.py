"""`python -m s3bulkcopy`."""

from s3bulkcopy.cli import main

if __name__ == "__main__":
    main()
