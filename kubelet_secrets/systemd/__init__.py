"""The service file, as data; ``cli.systemd_unit`` prints it. No code."""
