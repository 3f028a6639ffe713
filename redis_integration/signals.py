"""Django signals of an outage's two ends, for alarms of your own. Receivers that raise are logged by Django, and disturb nobody."""

from __future__ import annotations

from django.dispatch import Signal

# Both are sent once, by whoever noticed it: a request, a task, or the watch's thread. The sender is the alias; `reason` says in
# words what happened and what to do about it.
redis_lost = Signal()
# `seconds`: how long Redis was not believed.
redis_back = Signal()
