"""Invalidates the tags of a model's rows when Django says that a row changes.
It sees nothing that sends no signal: QuerySet.update(), bulk operations, raw SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from types import FunctionType
from typing import Any

from django.db import connections
from django.db.models import Model
from django.db.models.fields.related import lazy_related_operation
from django.db.models.signals import class_prepared, m2m_changed, post_save, pre_delete, pre_save

from redis_integration.conf import get_settings
from redis_integration.invalidation import invalidate
from redis_integration.tags import refuse_uncallable, tag_list


def invalidates(
    *models: type[Model], tags: Callable[[Any], Collection[str]] | Collection[str], alias: str = "default"
) -> None:
    """From now on, a change of a row of these models invalidates its tags: those it had and those it has then.

    `tags` is a list, or a callable that gets a row and returns a list. Changes are saves, deletes (cascades too) and
    changes of many-to-many relations, also through proxies, children and parents of the model. A callable costs one query
    for each save of an existing row (inside `atomic()` it locks the row), for each delete() of an instance, and for each
    end of a many-to-many change. Call it in AppConfig.ready() or below the model; twice is once.

    Raises TypeError for what are no models or no tags. What the callable raises, save() and delete() raise.
    """
    if not models:
        raise TypeError("invalidates() got no model. Write invalidates(Product, tags=…).")
    for model in models:
        is_model = isinstance(model, type) and issubclass(model, Model) and model is not Model
        if not is_model or model._meta.abstract or model._meta.proxy:
            raise TypeError(f"{model!r} is no model with a table of its own. Pass the concrete model.")
    if callable(tags):
        refuse_uncallable(tags)
    else:
        tags = tag_list(tags, "tags=")
    for model in models:
        _RowTags(model, tags, alias).connect()


class _RowTags:
    """The tags of one model's rows, and the receivers of the signals about them."""

    def __init__(self, model: type[Model], tags: Callable[[Any], object] | list[str], alias: str) -> None:
        self.model, self.alias = model, alias
        self.make = tags if callable(tags) else None
        self.constant = [] if callable(tags) else tags
        self.uid = ("redis_integration.model_tags", model, alias, _identity(tags))
        # Where an instance carries from one signal to the next what was found.
        self.slot = f"_redis_integration_{id(self)}"

    def connect(self) -> None:
        """Connect to all models there are and will be: below a model, many are still to come."""
        class_prepared.connect(self.connect_to, weak=False, dispatch_uid=self.uid)
        for models in self.model._meta.apps.all_models.values():
            for model in [*models.values()]:
                self.connect_to(model)

    # To each sender by itself: a receiver for all would make Django delete and add rows one by one everywhere.
    def connect_to(self, sender: type[Model], **kwargs: object) -> None:
        if self.is_kin(sender):
            pre_save.connect(self.before_save, sender=sender, weak=False, dispatch_uid=self.uid)
            post_save.connect(self.after_save, sender=sender, weak=False, dispatch_uid=self.uid)
        if issubclass(sender, self.model):
            pre_delete.connect(self.before_delete, sender=sender, weak=False, dispatch_uid=self.uid)
        for field in sender._meta.local_many_to_many:
            relation: Any = field.remote_field
            if relation.through is not None:
                lazy_related_operation(self.connect_links, sender, relation.model, relation.through, field=field)

    def connect_links(self, near: type[Model], far: type[Model], through: type[Model], *, field: Any) -> None:
        if self.is_kin(near) or self.is_kin(far):
            receiver = partial(self.links_change, field)
            m2m_changed.connect(receiver, sender=through, weak=False, dispatch_uid=(*self.uid, field))

    def is_kin(self, other: type[Model]) -> bool:
        """Whether a row of `other` can be part of a row of the model, or the other way round."""
        concrete = other._meta.concrete_model or other
        return issubclass(concrete, self.model) or issubclass(self.model, concrete)

    def before_save(self, sender: type[Model], *, instance: Any, using: str, raw: bool, **kwargs: object) -> None:
        is_adding = instance._state.adding
        has_default = all(field.has_default() or field.has_db_default() for field in sender._meta.pk_fields)
        # Such a row Django only inserts.
        is_new = is_adding and has_default and not raw
        if self.make is None or is_new or not instance._is_pk_set():
            return
        rows = self.find_one(instance, using, may_lock=not is_adding)
        # What an earlier save left there, because it failed or is still going on, is not lost.
        _, tags = vars(instance).get(self.slot, _NOTHING)
        vars(instance)[self.slot] = rows, [*tags, *self.tags_of(rows)]

    def after_save(
        self, sender: type[Model], *, instance: Any, using: str, update_fields: Any, **kwargs: object
    ) -> None:
        rows, tags = vars(instance).pop(self.slot, _NOTHING)
        is_whole = isinstance(instance, self.model) and not kwargs["raw"] and not _is_computed(instance)
        if self.make is not None and not is_whole:
            rows = self.find_one(instance, using)
        elif update_fields and rows:
            # The other fields of the instance may be older than those of the row.
            for name in update_fields:
                field: Any = sender._meta.get_field(name)
                setattr(rows[0], field.attname, getattr(instance, field.attname))
        else:
            rows = [instance]
        self.send([*tags, *self.tags_of(rows)])

    def before_delete(
        self, sender: type[Model], *, instance: Any, using: str, origin: object = None, **kwargs: object
    ) -> None:
        # The rows of a QuerySet or a cascade Django has just read; the user's own instance may be old or changed.
        is_users = origin is None or origin is instance
        self.send(self.tags_of(self.find_one(instance, using, may_lock=True) if is_users else [instance]))

    def links_change(self, field: Any, *, instance: Any, action: str, pk_set: Any, **change: Any) -> None:
        if pk_set is not None and not pk_set:
            return
        slot = f"{self.slot}_{field.name}"
        if action.startswith("pre_"):
            vars(instance)[slot] = self.find_linked(field, instance=instance, pks=pk_set, **change)
        # A tag may tell of the links, so it is asked for before and after.
        rows = vars(instance)[slot] if action.startswith("pre_") else vars(instance).pop(slot, [])
        self.send(self.tags_of(rows))

    def find_linked(
        self, field: Any, *, instance: Any, pks: Any, sender: type[Model], model: type[Model], using: str, **change: Any
    ) -> list[Any]:
        """The rows of the model at both ends of the links that will change; all links of the instance if `pks` is None."""
        near, far = field.m2m_field_name(), field.m2m_reverse_field_name()
        if change["reverse"]:
            near, far = far, near
        rows = self.find_one(instance, using) if self.is_kin(type(instance)) else []
        if self.is_kin(model):
            if pks is None:
                pks = sender._base_manager.using(using).filter(**{near: instance}).values(far)
            target: Any = sender._meta.get_field(far)
            rows += self.find(model, using, {f"{target.target_field.name}__in": pks})
        return rows

    def find_one(self, instance: Any, using: str, *, may_lock: bool = False) -> list[Any]:
        return self.find(type(instance), using, {instance._meta.pk.name: instance.pk}, may_lock=may_lock)

    def find(self, sender: type[Model], using: str, lookup: dict[str, Any], *, may_lock: bool = False) -> list[Any]:
        """The stored rows of the model that are rows of `sender` too; none where nothing is asked of them."""
        if self.make is None or not get_settings(self.alias).enabled:
            return []
        source = sender if issubclass(sender, self.model) else self.model
        rows = source._base_manager.using(using).filter(**lookup)
        connection = connections[using]
        if may_lock and connection.in_atomic_block:
            # The UPDATE takes this lock next; without it, another transaction could move the row in between.
            rows = rows.select_for_update(no_key=connection.features.has_select_for_no_key_update)
        return [*rows]

    def tags_of(self, rows: list[Any]) -> list[str]:
        if self.make is None:
            return self.constant
        return [tag for row in rows for tag in tag_list(self.make(row), f"What tags= gave for {row._meta.label}")]

    def send(self, tags: list[str]) -> None:
        if tags:
            invalidate(tags=dict.fromkeys(tags), alias=self.alias)


_NOTHING: tuple[list[Any], list[str]] = ([], [])


def _is_computed(instance: Model) -> bool:
    """Whether the database gave a field a value that the instance may not have."""
    fields, values = instance._meta.concrete_fields, vars(instance)
    return any(field.generated or hasattr(values.get(field.attname), "resolve_expression") for field in fields)


def _identity(tags: object) -> object:
    if isinstance(tags, FunctionType):
        # A function that holds nothing is the same each time its line runs, as in a second ready().
        is_bare = not (tags.__closure__ or tags.__defaults__ or tags.__kwdefaults__)
        return (tags.__module__, tags.__code__) if is_bare else tags
    return tuple(tags) if isinstance(tags, list) else tags
