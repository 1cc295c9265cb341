"""What Sphinx does not bring: pages made from the command line and from pydantic fields, and
drawings.
"""
