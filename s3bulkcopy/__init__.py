"""Copy millions to billions of S3 objects from one bucket to another, server-side."""

__version__ = "0.1.0"
