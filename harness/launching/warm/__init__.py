"""Ranks without their imports: each is a fresh process, forked from a server that has imported what ranks need."""
