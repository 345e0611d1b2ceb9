"""What is published against what is measured again, and a rebuild against what was committed."""
