from __future__ import annotations

import gc
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import async_to_sync
from django.apps.registry import Apps
from django.contrib.auth.models import Group, User
from django.db import IntegrityError, connection, connections, models, transaction
from django.db.models import F, signals
from django.test.utils import CaptureQueriesContext

from redis_integration import cache_aside, invalidates, model_tags
from tests.databases import added_databases

GUARD = 30  # seconds: what would hang fails instead

own = Apps(["tests"])  # what is defined here, Django's own registry never hears of
SIGNALS = [
    signals.class_prepared,
    signals.pre_save,
    signals.post_save,
    signals.pre_delete,
    signals.post_delete,
    signals.m2m_changed,
]


class Label(models.Model):
    name = models.CharField(max_length=20)

    class Meta:
        app_label = "tests"
        apps = own


class Category(models.Model):
    name = models.CharField(max_length=20)

    class Meta:
        app_label = "tests"
        apps = own


class Product(models.Model):
    name = models.CharField(max_length=20, default="")
    status = models.CharField(max_length=20, default="draft")
    category = models.ForeignKey(Category, models.CASCADE, null=True)
    labels = models.ManyToManyField(Label, related_name="products")

    class Meta:
        app_label = "tests"
        apps = own


class Bargain(Product):
    class Meta:
        app_label = "tests"
        apps = own
        proxy = True


class Book(Product):
    isbn = models.CharField(max_length=20, default="")

    class Meta:
        app_label = "tests"
        apps = own


class Person(models.Model):
    friends = models.ManyToManyField("self", symmetrical=True)
    follows = models.ManyToManyField("self", symmetrical=False, related_name="followers")

    class Meta:
        app_label = "tests"
        apps = own


class Parcel(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    owner = models.CharField(max_length=9, default="")

    class Meta:
        app_label = "tests"
        apps = own


class Crate(models.Model):
    grams = models.IntegerField(default=0)
    kilos = models.GeneratedField(expression=F("grams") / 1000, output_field=models.IntegerField(), db_persist=True)

    class Meta:
        app_label = "tests"
        apps = own


class Shipment(models.Model):
    """Its links lead to codes, not to primary keys."""

    code = models.CharField(max_length=9, unique=True)
    parcels = models.ManyToManyField(Parcel, through="tests.Leg", related_name="shipments")  # type: ignore[misc]

    class Meta:
        app_label = "tests"
        apps = own


class Leg(models.Model):
    shipment = models.ForeignKey(Shipment, models.CASCADE, to_field="code")
    parcel = models.ForeignKey(Parcel, models.CASCADE)

    class Meta:
        app_label = "tests"
        apps = own


class Club(models.Model):
    """Two relations go through one model, each from another end."""

    guests = models.ManyToManyField(
        "self",
        through="tests.Match",  # type: ignore[misc]
        through_fields=("home", "away"),
        symmetrical=False,
        related_name="+",
    )
    hosts = models.ManyToManyField(
        "self",
        through="tests.Match",  # type: ignore[misc]
        through_fields=("away", "home"),
        symmetrical=False,
        related_name="+",
    )

    class Meta:
        app_label = "tests"
        apps = own


class Match(models.Model):
    home = models.ForeignKey(Club, models.CASCADE, related_name="+")
    away = models.ForeignKey(Club, models.CASCADE, related_name="+")

    class Meta:
        app_label = "tests"
        apps = own


MODELS = [Label, Category, Product, Book, Person, Parcel, Crate, Shipment, Leg, Club, Match]


class Sent:
    """Takes invalidate's place and remembers the tags."""

    def __init__(self):
        self.calls = []

    def __call__(self, *, tags, alias="default"):
        self.calls.append(list(tags))

    def take(self):
        """The tags since the last time."""
        tags, self.calls = {tag for call in self.calls for tag in call}, []
        return tags


def tags_of(product):
    return [f"product:{product.pk}", f"category:{product.category_id}"]


def pk_tag(row):
    return [f"{row._meta.model_name}:{row.pk}"]


@pytest.fixture(scope="module")
def tables(django_db_setup, django_db_blocker):
    """The tables of the models above."""
    with django_db_blocker.unblock():
        with connection.schema_editor() as editor:
            created = [editor.create_model(model) for model in MODELS]
        yield created
        with connection.schema_editor() as editor:
            [editor.delete_model(model) for model in reversed(MODELS)]


@pytest.fixture
def rows(tables, db):
    """A transaction that is rolled back, with the tables."""


@pytest.fixture(autouse=True)
def own_receivers():
    """No test leaves a receiver to the next."""
    before = {signal: [*signal.receivers] for signal in SIGNALS}
    yield
    for signal, receivers in before.items():
        signal.receivers = receivers
        signal.sender_receivers_cache.clear()


@pytest.fixture
def sent(monkeypatch):
    """What was invalidated."""
    sent = Sent()
    monkeypatch.setattr(model_tags, "invalidate", sent)
    return sent


@pytest.fixture
def product(rows, sent):
    """A registered product in category 1."""
    Category.objects.bulk_create([Category(pk=1, name="a"), Category(pk=2, name="b"), Category(pk=3, name="c")])
    Product.objects.bulk_create([Product(pk=7, category_id=1)])
    invalidates(Product, tags=tags_of)
    return Product.objects.get(pk=7)


def test_moved_row_invalidates_where_it_was_and_where_it_is(product, sent):
    """The list it left must not show it any more, the list it came to must."""
    product.category_id = 2

    product.save()

    assert sent.take() == {"product:7", "category:1", "category:2"}
    assert len(sent.calls) == 0


def test_row_before_is_the_stored_one(product, sent):
    """An instance that is older than its row leaves no tag of the row behind."""
    Product.objects.filter(pk=7).update(category_id=2)
    product.category_id = 3

    product.save()

    assert sent.take() == {"product:7", "category:2", "category:3"}


def test_save_of_an_existing_row_costs_one_query(product, django_assert_num_queries):
    """The SELECT of the row before; the UPDATE is the user's."""
    with django_assert_num_queries(2):
        product.save()


@pytest.mark.parametrize("new", [Product, Parcel])
def test_new_row_costs_no_query(product, sent, django_assert_num_queries, new):
    """Where Django only inserts, for want of a primary key or with one by default, there is nothing to read."""
    invalidates(new, tags=pk_tag)
    row = new()

    with django_assert_num_queries(1):
        row.save()

    assert f"{new._meta.model_name}:{row.pk}" in sent.take()


def test_constant_tags_cost_no_query(rows, sent, django_assert_num_queries):
    """A list says nothing of rows, so none is read."""
    Label.objects.bulk_create([Label(pk=1)])
    label = Label.objects.get()
    invalidates(Label, tags=["labels", "pages"])

    with django_assert_num_queries(1):
        label.save()
    assert sent.calls == [["labels", "pages"]]

    label.delete()
    assert sent.take() == {"labels", "pages"}


def test_overwritten_row_invalidates_what_it_was(product, sent):
    """A new instance with a primary key set by hand may replace a row."""
    Product(pk=7, category_id=2).save()

    assert sent.take() == {"product:7", "category:1", "category:2"}


def test_changed_primary_key_is_another_row(product, sent):
    """The row of the old key stays as it is; that of the new key is written."""
    Product.objects.bulk_create([Product(pk=8, category_id=3)])
    product.pk, product.category_id = 8, 2

    product.save()

    assert sent.take() == {"product:8", "category:3", "category:2"}


def test_copy_of_a_row_is_a_new_row(product, sent):
    """pk = None and save() makes one more, and changes nothing of the first."""
    product.pk = None

    product.save()

    assert sent.take() == {f"product:{product.pk}", "category:1"}


def test_forced_insert_invalidates_the_new_row(product, sent):
    """There was none before."""
    Product.objects.create(pk=9, category_id=2)

    assert sent.take() == {"product:9", "category:2"}


@pytest.mark.parametrize("fields", [["category"], ["category_id"]])
def test_partial_save_makes_the_tags_of_the_row_that_results(product, sent, fields):
    """Fields that are not saved may be older in the instance than in the row."""
    invalidates(Product, tags=lambda row: [f"{row.category_id}:{row.status}"])
    Product.objects.filter(pk=7).update(status="live")
    product.category_id = 2

    product.save(update_fields=fields)

    assert {"1:live", "2:live"} <= sent.take()


def test_deferred_fields_are_those_of_the_row(product, sent, django_assert_num_queries):
    """save() of an instance from only() writes what it has; no query more is needed."""
    product = Product.objects.only("name").get(pk=7)
    product.name = "new"

    with django_assert_num_queries(2):
        product.save()

    assert sent.take() == {"product:7", "category:1"}


def test_expression_is_read_back(product, sent):
    """What the database computes, the instance may not know after the save."""
    product.category_id = F("category_id") + 1

    product.save()

    assert sent.take() == {"product:7", "category:1", "category:2"}


def test_generated_column_is_read_back(rows, sent):
    """It follows from other columns, at the database."""
    crate = Crate.objects.create(grams=1000)
    invalidates(Crate, tags=lambda row: [f"kilos:{row.kilos}"])
    crate.grams = 5000

    crate.save()

    assert sent.take() == {"kilos:1", "kilos:5"}


def test_fixture_invalidates_too(product, sent):
    """loaddata saves raw, each table of a child by itself, with only that table's fields."""
    invalidates(Book, tags=lambda book: [f"book:{book.isbn}:{book.category_id}"])

    Product(pk=30, category_id=2).save_base(raw=True)
    assert sent.take() == {"product:30", "category:2"}

    child = Book(product_ptr_id=30, isbn="x")
    child.save_base(raw=True)
    assert sent.take() == {"product:30", "category:2", "book:x:2"}


def test_row_whose_key_has_a_default_is_read_once_it_is_there(rows, sent):
    """Only its first save is surely an insert; a fixture may replace a row by any key."""
    parcel = Parcel.objects.create(owner="a")
    invalidates(Parcel, tags=lambda parcel: [parcel.owner])
    parcel.owner = "b"

    parcel.save()
    assert sent.take() == {"a", "b"}

    Parcel(pk=parcel.pk, owner="c").save_base(raw=True)
    assert sent.take() == {"b", "c"}


def test_proxy_is_the_model(product, sent):
    """A row is a row by whatever class it is saved."""
    bargain = Bargain.objects.get(pk=7)
    bargain.category_id = 2

    bargain.save()
    assert sent.take() == {"product:7", "category:1", "category:2"}

    bargain.delete()
    assert sent.take() == {"product:7", "category:2"}


def test_child_is_a_row_of_its_parent(product, sent):
    """A book is a product: its save, its move and its delete are the product's."""
    book = Book.objects.create(pk=9, category_id=1)
    assert sent.take() == {"product:9", "category:1"}

    book.category_id = 2
    book.save()
    assert sent.take() == {"product:9", "category:1", "category:2"}

    book.category_id = 3
    book.delete()
    assert "category:2" in sent.take()


def test_parent_is_a_part_of_its_child(rows, sent):
    """Saved as a product, a book has changed; a product that is no book is nobody's."""
    Book.objects.create(pk=9, name="old")
    Product.objects.create(pk=10)
    invalidates(Book, tags=lambda book: [f"book:{book.isbn}:{book.name}"])
    product = Product.objects.get(pk=9)
    product.name = "new"

    product.save()
    assert sent.take() == {"book::old", "book::new"}

    Bargain.objects.get(pk=9).save()
    assert sent.take() == {"book::new"}

    Product.objects.get(pk=10).save()
    Bargain.objects.get(pk=9).delete()
    assert sent.take() == {"book::new"}


def test_delete_invalidates_the_stored_row(product, sent):
    """The instance may have changed since it was read."""
    product.category_id = 3

    product.delete()

    assert sent.take() == {"product:7", "category:1"}


def test_delete_of_a_row_that_is_gone_invalidates_nothing(product, sent):
    """Who deleted it has invalidated it."""
    Product.objects.filter(pk=7)._raw_delete("default")

    product.delete()

    assert sent.take() == set()


def delete_category():
    Category.objects.get(pk=1).delete()


def delete_products():
    Product.objects.all().delete()


@pytest.mark.parametrize("delete", [delete_category, delete_products])
def test_rows_of_a_cascade_and_of_a_queryset_cost_no_query(product, sent, delete):
    """Django has read them to delete them, and they are not read again."""
    Product.objects.bulk_create([Product(pk=pk, category_id=1) for pk in (8, 9)])

    with CaptureQueriesContext(connection) as queries:
        delete()

    reads = [query["sql"] for query in queries if query["sql"].startswith("SELECT") and "_product" in query["sql"]]
    assert len(reads) == 2  # the products, and the books among them
    assert sent.take() == {"product:7", "product:8", "product:9", "category:1"}


@pytest.fixture
def groups(db, sent):
    """Users 1 and 2, groups 1 to 3; user 1 is in groups 1 and 2, user 2 in group 2; users and groups are registered."""
    User.objects.bulk_create([User(pk=pk, username=f"u{pk}") for pk in (1, 2)])
    Group.objects.bulk_create([Group(pk=pk, name=f"g{pk}") for pk in (1, 2, 3)])
    User.objects.get(pk=1).groups.set([1, 2])
    User.objects.get(pk=2).groups.set([2])
    invalidates(User, Group, tags=pk_tag)
    sent.take()


@pytest.mark.parametrize(
    ("change", "tags"),
    [
        (lambda user, group: user.groups.add(3), {"user:1", "group:3"}),
        (lambda user, group: user.groups.remove(1), {"user:1", "group:1"}),
        (lambda user, group: user.groups.clear(), {"user:1", "group:1", "group:2"}),
        (lambda user, group: user.groups.set([2, 3]), {"user:1", "group:1", "group:3"}),
        (lambda user, group: user.groups.set([3], clear=True), {"user:1", "group:1", "group:2", "group:3"}),
        (lambda user, group: user.groups.add(1), set()),
        (lambda user, group: group.user_set.add(2), {"group:1", "user:2"}),
        (lambda user, group: group.user_set.remove(1), {"group:1", "user:1"}),
        (lambda user, group: group.user_set.clear(), {"group:1", "user:1"}),
        (lambda user, group: group.user_set.set([2]), {"group:1", "user:1", "user:2"}),
        (lambda user, group: user.groups.create(pk=4, name="g4"), {"user:1", "group:4"}),
    ],
)
def test_changed_links_invalidate_both_ends(groups, sent, change, tags):
    """Whichever end changes them: by the manager of the user's groups, or of the group's users."""
    change(User.objects.get(pk=1), Group.objects.get(pk=1))

    assert sent.take() == tags


@pytest.mark.parametrize(
    ("change", "tags"),
    [
        (lambda group: group.user_set.clear(), {"user:1", "user:2"}),
        (lambda group: group.user_set.remove(1), {"user:1"}),
        (lambda group: group.permissions.clear(), set()),
    ],
)
def test_clear_from_the_other_end_finds_the_rows_before(db, sent, change, tags):
    """After the clear nobody could say whose links they were."""
    User.objects.bulk_create([User(pk=pk, username=f"u{pk}") for pk in (1, 2, 3)])
    group = Group.objects.create(pk=1, name="g")
    group.user_set.set([1, 2])
    invalidates(User, tags=pk_tag)

    change(group)

    assert sent.take() == tags


def test_rows_at_the_end_of_links_are_the_stored_ones(groups, sent):
    """What was changed in the instance and not saved is not in the row."""
    invalidates(User, tags=lambda user: [user.username])
    user = User.objects.get(pk=1)
    user.username = "unsaved"

    user.groups.add(3)

    assert sent.take() == {"user:1", "group:3", "u1"}


def test_tags_that_tell_of_links_are_taken_before_and_after(groups, sent):
    """A user's groups may be what the tags are made of."""
    invalidates(User, tags=lambda user: [f"in:{group.pk}" for group in user.groups.all()] or ["in:none"])

    User.objects.get(pk=2).groups.set([3])
    assert {"in:2", "in:3"} <= sent.take()

    Group.objects.get(pk=3).user_set.clear()
    assert {"in:3", "in:none"} <= sent.take()


def test_links_of_a_model_to_itself_have_one_model_at_both_ends(rows, sent):
    """Friends are friends in both directions, followers in one."""
    Person.objects.bulk_create([Person(pk=pk) for pk in (1, 2, 3)])
    invalidates(Person, tags=pk_tag)
    one, two = Person.objects.get(pk=1), Person.objects.get(pk=2)

    one.friends.add(2)
    assert sent.take() == {"person:1", "person:2"}

    two.friends.clear()
    assert sent.take() == {"person:1", "person:2"}

    two.followers.set([1, 3])
    assert sent.take() == {"person:1", "person:2", "person:3"}

    one.follows.clear()
    assert sent.take() == {"person:1", "person:2"}


def test_links_of_children_and_proxies_are_the_models(product, sent):
    """The relation is declared on the parent."""
    Label.objects.bulk_create([Label(pk=1)])
    book = Book.objects.create(pk=9)
    sent.take()

    book.labels.add(1)
    assert sent.take() == {"product:9", "category:None"}

    Bargain.objects.get(pk=7).labels.add(1)
    assert sent.take() == {"product:7", "category:1"}

    Label.objects.get().products.clear()
    assert sent.take() == {"product:7", "product:9", "category:1", "category:None"}


def test_links_of_a_parent_are_the_childs(rows, sent):
    """A book whose labels change as a product's is a changed book."""
    Label.objects.bulk_create([Label(pk=1)])
    Book.objects.create(pk=9)
    Product.objects.create(pk=10)
    invalidates(Book, tags=pk_tag)

    Product.objects.get(pk=9).labels.add(1)
    assert sent.take() == {"book:9"}

    Product.objects.get(pk=10).labels.add(1)
    assert sent.take() == set()

    Label.objects.get().products.clear()
    assert sent.take() == {"book:9"}


def test_links_may_lead_to_other_columns_than_primary_keys(rows, sent):
    """The through model's foreign key decides what pk_set holds."""
    parcel, shipment = Parcel.objects.create(), Shipment.objects.create(code="x")
    invalidates(Parcel, Shipment, tags=pk_tag)

    parcel.shipments.add(shipment)
    assert sent.take() == {f"parcel:{parcel.pk}", f"shipment:{shipment.pk}"}

    parcel.shipments.clear()
    assert sent.take() == {f"parcel:{parcel.pk}", f"shipment:{shipment.pk}"}


def test_two_relations_may_go_through_one_model(rows, sent):
    """The signal does not say which of them changed."""
    Club.objects.bulk_create([Club(pk=pk) for pk in (1, 2, 3)])
    Match.objects.bulk_create([Match(home_id=1, away_id=2), Match(home_id=3, away_id=1)])
    invalidates(Club, tags=pk_tag)

    Club.objects.get(pk=1).guests.clear()
    assert {"club:1", "club:2"} <= sent.take()

    Club.objects.get(pk=1).hosts.clear()
    assert {"club:1", "club:3"} <= sent.take()


def test_constant_tags_follow_links_without_a_query(db, sent, django_assert_num_queries):
    """The SELECT and the INSERT are Django's own."""
    user, group = User.objects.create(username="u"), Group.objects.create(name="g")
    invalidates(User, tags=["users"])

    with django_assert_num_queries(2):
        user.groups.add(group)

    assert sent.take() == {"users"}


def test_other_models_keep_their_fast_ways(rows, sent):
    """Django deletes and adds one by one where a receiver listens, so none listens to what is not asked for."""
    invalidates(Product, tags=["products"])

    assert not signals.pre_delete.has_listeners(Label)
    assert not signals.pre_save.has_listeners(Label)
    assert not signals.m2m_changed.has_listeners(Person.friends.through)
    assert not signals.m2m_changed.has_listeners(User.groups.through)


def test_models_defined_later_are_connected_too(rows, sent):
    """invalidates() below a model runs before the modules of its children, proxies and relations."""
    later = Apps()
    meta = {"app_label": "model_tags_later", "apps": later}

    class Track(models.Model):
        Meta = type("Meta", (), meta)

    invalidates(Track, tags=["tracks"])

    class Remix(Track):
        Meta = type("Meta", (), meta | {"proxy": True})

    class Playlist(models.Model):
        tracks = models.ManyToManyField("Track", through="Place")
        Meta = type("Meta", (), meta)

    class Place(models.Model):
        track = models.ForeignKey(Track, models.CASCADE)
        playlist = models.ForeignKey(Playlist, models.CASCADE)
        Meta = type("Meta", (), meta)

    assert signals.post_save.has_listeners(Remix)
    assert signals.pre_delete.has_listeners(Remix)
    assert signals.m2m_changed.has_listeners(Place)
    assert not signals.post_save.has_listeners(Playlist)


def test_registered_twice_is_once(product, sent, django_assert_num_queries):
    """ready() may run twice; the same function, a lambda of the same line, and the same list are the same."""
    invalidates(Product, tags=tags_of)
    [invalidates(Product, tags=lambda row: ["lambda"]) for _ in range(2)]
    [invalidates(Product, tags=["list"]) for _ in range(2)]

    product.save()

    assert sorted(sent.calls) == [["lambda"], ["list"], ["product:7", "category:1"]]


def test_functions_that_hold_something_are_told_apart(product, sent):
    """Made in one line, they may give different tags."""
    [invalidates(Product, tags=lambda row, name=name: [name]) for name in "ab"]
    [invalidates(Product, tags=["c" * count]) for count in (1, 2)]

    product.save()

    assert {"a", "b", "c", "cc"} <= sent.take()


def test_registration_is_kept_alive(rows, sent):
    """Nobody but the signals holds it."""
    invalidates(Label, tags=lambda label: ["labels"])
    gc.collect()

    Label().save()

    assert sent.take() == {"labels"}


def test_error_of_the_callable_is_the_callers(product):
    """It is a bug of theirs, and nothing is saved."""
    invalidates(Product, tags=lambda row: [f"{1 / 0}"])

    with pytest.raises(ZeroDivisionError):
        product.save()


def test_result_that_is_no_list_is_an_error(product):
    """The letters of a string would be tags."""
    invalidates(Product, tags=lambda row: "product")

    with pytest.raises(TypeError, match=r"What tags= gave for tests\.Product is a str\. Return a list of strings"):
        product.save()


async def acoroutine(row):
    return []


@pytest.mark.parametrize(
    ("arguments", "tags", "message"),
    [
        ([], ["a"], "got no model"),
        (["shop.Product"], ["a"], "'shop.Product' is no model"),
        ([Product()], ["a"], "is no model with a table of its own"),
        ([models.Model], ["a"], "is no model with a table of its own"),
        ([Product, Bargain], ["a"], "Pass the concrete model"),
        ([Product], "products", "tags= is a str. Return a list"),
        ([Product], [7], "tags= holds a int"),
        ([Product], [""], "tags= holds an empty string"),
        ([Product], None, "tags= is a NoneType"),
        ([Product], acoroutine, "is a generator or a coroutine function"),
    ],
)
def test_wrong_registration_is_an_error_at_once(arguments, tags, message):
    """It is found at start, and says what is wrong."""
    with pytest.raises(TypeError, match=message):
        invalidates(*arguments, tags=tags)


def test_failed_save_leaves_its_tags_for_the_next(product, sent):
    """A save that failed perhaps changed nothing; what was read before it is not lost."""
    product.category_id = 2
    product.name = None
    with pytest.raises(IntegrityError), transaction.atomic():
        product.save()
    Product.objects.filter(pk=7).update(category_id=3)
    product.name = ""

    product.save()

    assert sent.take() == {"product:7", "category:1", "category:2", "category:3"}


def test_disabled_alias_reads_no_rows(product, settings, django_assert_num_queries):
    """Without a cache there is nothing to invalidate, and no query to pay."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "ENABLED": False}}

    with django_assert_num_queries(1):
        product.save()


@pytest.fixture
def named(live):
    """The names of all users with a first name, cached under a tag of that first name; one user, called a."""
    invalidates(User, tags=lambda user: [f"named:{user.first_name}"])

    @cache_aside(ttl=60, key="named:{name}", tags=["named:{name}"])
    def named(name):
        return sorted(User.objects.filter(first_name=name).values_list("username", flat=True))

    User.objects.create(username="u", first_name="a")
    assert (named("a"), named("b")) == (["u"], [])
    return named


@pytest.mark.django_db(transaction=True)
def test_moved_row_leaves_one_cached_list_and_enters_the_other(named):
    """No list is stale, and nobody called invalidate()."""
    user = User.objects.get()
    user.first_name = "b"

    user.save()

    assert (named("a"), named("b")) == ([], ["u"])


@pytest.mark.django_db(transaction=True)
def test_cached_lists_wait_for_the_commit(named):
    """A transaction sees its own changes; rolled back, they have changed nothing."""
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        User.objects.all().delete()
        assert named("a") == []
        raise ZeroDivisionError
    assert named("a") == ["u"]

    with transaction.atomic():
        User.objects.get().delete()
    assert named("a") == []


@pytest.mark.django_db(transaction=True)
def test_async_methods_invalidate_too(named):
    """asave() and adelete() send their signals from a sync thread, where invalidate() may be called."""

    async def move_and_delete():
        user = await User.objects.aget()
        user.first_name = "b"
        await user.asave()
        moved = await User.objects.acreate(username="v", first_name="b")
        await moved.adelete()

    async_to_sync(move_and_delete)()

    assert (named("a"), named("b")) == ([], ["u"])


@pytest.fixture
def on_postgres(postgres, sent, django_db_blocker):
    """One user, called a, in a database that locks rows."""
    with added_databases(postgres), django_db_blocker.unblock():
        User.objects.using("postgres").all().delete()
        User.objects.using("postgres").create(pk=1, username="u", first_name="a")
        invalidates(User, tags=lambda user: [f"named:{user.first_name}"])
        yield


def move(name):
    """The one user gets another first name, in a transaction of this thread."""
    try:
        with transaction.atomic(using="postgres"):
            user = User.objects.using("postgres").get()
            user.first_name = name
            user.save()
    finally:
        connections["postgres"].close()


def is_anyone_waiting():
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return cursor.fetchone()[0] > 0


def until(condition):
    deadline = time.monotonic() + GUARD
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert holds


@pytest.mark.xdist_group("postgres")
def test_two_who_move_one_row_know_of_each_other(on_postgres, sent):
    """In a transaction the row is read under the lock of its UPDATE, so the second mover leaves where the first came."""
    with ThreadPoolExecutor(1) as threads:
        with transaction.atomic(using="postgres"):
            user = User.objects.using("postgres").get()
            user.first_name = "b"
            user.save()
            second = threads.submit(move, "c")
            until(is_anyone_waiting)
        second.result(GUARD)

    assert sent.calls == [["named:a", "named:b"], ["named:b", "named:c"]]


@pytest.mark.xdist_group("postgres")
def test_row_that_may_not_be_there_is_not_locked(on_postgres, sent):
    """On MySQL, the lock of a gap makes two inserts wait for each other."""
    with CaptureQueriesContext(connections["postgres"]) as queries, transaction.atomic(using="postgres"):
        User(pk=2, username="v", first_name="b").save(using="postgres")
        User(pk=1, username="u", first_name="c").save(using="postgres")

    assert [query["sql"] for query in queries if " FOR " in query["sql"]] == []
    assert sent.calls == [["named:b"], ["named:a", "named:c"]]


@pytest.mark.xdist_group("postgres")
def test_nothing_is_locked_outside_a_transaction(on_postgres, sent):
    """There a lock would be an error, and would end before the UPDATE."""
    user = User.objects.using("postgres").get()
    user.first_name = "b"

    user.save()
    user.delete()

    assert sent.calls == [["named:a", "named:b"], ["named:b"]]
