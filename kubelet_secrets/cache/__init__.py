"""What the node knows of Secrets and ConfigMaps: one list-watch per referenced object, counted by pod."""
