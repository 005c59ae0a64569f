"""Runs the steps of deploy/Dockerfile where there is no container engine, and tries out what comes of them."""
