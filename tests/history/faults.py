"""The faults of a run, on real servers: each is made at the start of a context manager, and healed at its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.stampede.watch import until

if TYPE_CHECKING:
    from tests.history.plan import Strike
    from tests.history.site import Site

OF_ONE = ("cut off", "killed")  # the kinds that are for one worker


@contextmanager
def refused(site: Site, strike: Strike) -> Iterator[None]:
    """Nobody is let in, and who was in is thrown out; it keeps what it holds."""
    with site.admin() as admin:
        admin.config_set("port", 0)
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield
        admin.config_set("port", site.port)


@contextmanager
def frozen(site: Site, strike: Strike) -> Iterator[None]:
    """What it received meanwhile it executes afterwards."""
    server = site.primary
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextmanager
def cut_off(site: Site, strike: Strike) -> Iterator[None]:
    """One worker alone."""
    with site.admin() as admin:
        user = f"worker{strike.worker}"
        admin.execute_command("ACL", "SETUSER", user, "off")
        admin.execute_command("CLIENT", "KILL", "USER", user)
        yield
        admin.execute_command("ACL", "SETUSER", user, "on")


def configured(name: str, value: int) -> Callable[[Site, Strike], contextlib.AbstractContextManager[None]]:
    """The fault that an option of the server has this value."""

    @contextmanager
    def fault(site: Site, strike: Strike) -> Iterator[None]:
        with site.admin() as admin:
            before = admin.config_get(name)[name]
            admin.config_set(name, value)
            yield
            admin.config_set(name, before or "")

    return fault


@contextmanager
def disk_full(site: Site, strike: Strike) -> Iterator[None]:
    """MISCONF: what it saves it cannot give its name, since a folder has it."""
    with site.admin() as admin:
        snapshot = Path(str(admin.config_get("dir")["dir"]), "dump.rdb")
        snapshot.unlink(missing_ok=True)
        (snapshot / "full").mkdir(parents=True)
        admin.config_set("save", "3600 1")
        admin.bgsave()
        until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
        yield
        admin.config_set("save", "")
        (snapshot / "full").rmdir()
        snapshot.rmdir()


@contextmanager
def demoted(site: Site, strike: Strike) -> Iterator[None]:
    """The primary is a replica for a while, of nobody; open connections stay, and read."""
    with site.admin() as admin:
        admin.replicaof("127.0.0.1", "1")
        yield
        admin.replicaof("NO", "ONE")


@contextmanager
def reply_lost(site: Site, strike: Strike) -> Iterator[None]:
    """For some workers: all is executed, and each connection breaks in place of its reply."""
    for proxy in site.proxies:
        proxy.loses_replies = True
    yield
    for proxy in site.proxies:
        proxy.loses_replies = False


@contextmanager
def old_snapshot(site: Site, strike: Strike) -> Iterator[None]:
    """It saves, goes on for a while, crashes, and comes back with what it had saved: leases and generations too."""
    with site.admin() as admin:
        admin.save()
    yield
    site.primary.kill()
    site.primary.start()
    listen_for_workers(site)


@contextmanager
def failover(site: Site, strike: Strike) -> Iterator[None]:
    """The replica hears nothing any more; the primary goes on for a while and crashes; the replica takes its place."""
    assert site.replica
    with site.admin() as admin:
        site.replica.pause()
        admin.execute_command("CLIENT", "KILL", "TYPE", "replica")
    yield
    site.primary.kill()
    site.replica.resume()
    site.primary, site.replica = site.replica, None
    with site.admin() as admin:
        admin.replicaof("NO", "ONE")
    listen_for_workers(site)
    site.replica = site.start_replica()


def listen_for_workers(site: Site) -> None:
    """The port of the workers leads to the primary."""
    with site.admin() as admin:
        admin.config_set("port", site.port)


@contextmanager
def killed(site: Site, strike: Strike) -> Iterator[None]:
    """SIGKILL for one worker, wherever it is. Nobody waits until it has started again."""
    site.kill_worker(strike.worker)
    yield
    site.restart_worker(strike.worker)


@contextmanager
def killed_for_good(site: Site, strike: Strike) -> Iterator[None]:
    """At the end of its time."""
    yield
    site.kill_worker(strike.worker)


@contextmanager
def dies(site: Site, strike: Strike) -> Iterator[None]:
    """The plan has it kill itself in this time."""
    yield
    site.await_death(strike.worker)


FAULTS: dict[str, Callable[[Site, Strike], contextlib.AbstractContextManager[None]]] = {
    "refused": refused,
    "frozen": frozen,
    "cut off": cut_off,
    "no replicas": configured("min-replicas-to-write", 9),
    "disk full": disk_full,
    "demoted": demoted,
    "reply lost": reply_lost,
    "old snapshot": old_snapshot,
    "failover": failover,
    "out of memory": configured("maxmemory", 1),
    "killed": killed,
    "killed for good": killed_for_good,
    "dies": dies,
}
