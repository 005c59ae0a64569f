"""``make test-dockerfile``: build the image, and try it out. Root on Debian."""

from __future__ import annotations

from dockerfile.container import try_orphans, try_worker
from dockerfile.steps import HOME, build
from support.brokers import RedisBroker, start_new
from support.pages import ROOT

HOME.mkdir(parents=True, exist_ok=True)
image = build((ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8"))
broker = start_new(RedisBroker, HOME / "redis")
try:
    try_worker(image, broker.url)
    try_orphans(image)
finally:
    broker.close()
