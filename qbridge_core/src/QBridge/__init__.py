"""The names under which QBridge was first announced: thin aliases of :mod:`qbridge_core` and its RabbitMQ backend."""
