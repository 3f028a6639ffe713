"""manage.py demo: prints the story that demo_project/story.py tells, then serves the pages. Measures nothing itself."""

from __future__ import annotations

import os
import platform
import sys
import threading
from typing import Any

import django
import redis
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError

from demo_project.server import ServerError
from demo_project.stage import Stage, StageError, served_pages, set_stage
from demo_project.story import Story, prepare_shop


class Command(BaseCommand):
    help = "Shows the shop with Redis up, cut off and back, in measured numbers, then serves its pages until Ctrl-C."

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "no_color": kwargs.get("no_color") or bool(os.environ.get("NO_COLOR"))})

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="end after the story, as without a terminal")
        parser.add_argument("--products", type=int, default=10_000, metavar="N", help="to fill an empty shop with")

    def handle(self, *args: Any, **options: Any) -> None:
        serve = sys.stdout.isatty() and not options["once"]
        try:
            with set_stage() as stage:
                self._tell(stage, options["products"])
                if serve:
                    self._serve(stage)
        except KeyboardInterrupt:
            self.stderr.write("\nStopped.", self.style.NOTICE)
            sys.exit(130)
        except (StageError, ServerError) as exc:
            raise CommandError(str(exc)) from exc
        except OperationalError as exc:
            raise CommandError(f"The database refused ({exc}). Does another demo use the same file?") from exc
        except BrokenPipeError:  # `| head` has read enough; what is still buffered must go nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _tell(self, stage: Stage, products: int) -> None:
        versions = f"Python {platform.python_version()}, Django {django.__version__}, redis-py {redis.__version__}"
        self._say("redis_integration: a shop, and Redis coming and going", "MIGRATE_HEADING")
        self._say(f"  Redis     {stage.words}")
        self._say(f"  Versions  {versions}")
        for words in prepare_shop(products=products):
            self._say(f"  Shop      {words}")
        story = Story(stage)
        self._say(f"  Product   {story.product.name}, {story.price}")
        self._say("")
        styles = {"head": "MIGRATE_LABEL", "good": "SUCCESS", "wrong": "ERROR"}
        for line in story.tell():
            self._say(line.text, styles.get(line.kind))
        if story.wrong:
            sys.exit(1)

    def _serve(self, stage: Stage) -> None:
        with served_pages() as address:
            self._say(f"\nThe pages: {address}   (Ctrl-C ends)", "MIGRATE_HEADING")
            if stage.pid:
                self._say(f"Freeze Redis: kill -STOP {stage.pid}   let it go on: kill -CONT {stage.pid}")
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                self._say("\nStopped.")

    def _say(self, text: str, style: str | None = None) -> None:
        self.stdout.write(getattr(self.style, style)(text) if style else text)
        self.stdout.flush()
