"""`python -m harness bench`: measurements that users make on their own machines."""
