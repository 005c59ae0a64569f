"""AMQP 0-9-1 as RabbitMQ speaks it, on pika: frames, headers, copies, errors, and a connection that is quick."""
