"""What authors run to make and check the project's claims: python -m studies.NAME."""
