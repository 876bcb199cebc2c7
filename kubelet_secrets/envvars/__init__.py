"""Environment variables of containers: expansion, services and env files make up one environment."""
