"""What is shipped beside the package: unit, container, wheel."""
