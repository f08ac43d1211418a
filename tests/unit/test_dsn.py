from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from pgbus import migrate
from pgbus.config import Config, connect_timeout, for_asyncpg, for_libpq
from pgbus.errors import ConfigurationError

# Each with what asyncpg and libpq are given.
FORMS = [
    ("postgresql://u:p@h/d", "postgresql://u:p@h/d", "postgresql://u:p@h/d"),
    ("postgresql://h/d?channel_binding=require&sslmode=require", "postgresql://h/d?sslmode=require", None),
    ("postgresql://h/d?keepalives=1&keepalives_idle=30&connect_timeout=3", "postgresql://h/d", None),
    (
        "postgresql://h/d?statement_timeout=5s&search_path=a, b",
        "postgresql://h/d?statement_timeout=5s&search_path=a%2C%20b",
        "postgresql://h/d?options=-c%20statement_timeout%3D5s%20-c%20search_path%3Da%2C%5C%20b",
    ),
    (
        "postgresql://h/d?options=-c%20jit%3Doff&app.tenant=7",
        "postgresql://h/d?options=-c%20jit%3Doff&app.tenant=7",
        "postgresql://h/d?options=-c%20jit%3Doff%20-c%20app.tenant%3D7",
    ),
    ("postgresql+asyncpg://u:p+x@h/d?ssl=require", "postgresql://u:p+x@h/d?sslmode=require", None),
    ("postgresql+psycopg://h/d\n", "postgresql://h/d", "postgresql://h/d"),
    ("postgresql://a:1,b:2/d?target_session_attrs=read-write", None, None),
    ("postgresql:///d?host=/tmp&sslrootcert=/etc/ca.pem&sslcert=c&sslkey=k", None, None),
    ("postgresql://h?database=d", "postgresql://h?dbname=d", "postgresql://h?dbname=d"),
    (
        "host=/tmp port=5433 user=u password='a \\'b' dbname=d",
        "postgresql://?host=/tmp&port=5433&user=u&password=a%20%27b&dbname=d",
        "postgresql://?host=/tmp&port=5433&user=u&password=a%20%27b&dbname=d",
    ),
]


@pytest.mark.parametrize(("dsn", "asyncpg", "libpq"), FORMS)
def test_each_driver_gets_its_own_form(dsn: str, asyncpg: str | None, libpq: str | None) -> None:
    config = Config(dsn=dsn)
    assert asyncpg is None or for_asyncpg(config.dsn) == asyncpg
    given = for_libpq(config.dsn)
    assert libpq is None or given == libpq
    psycopg.conninfo.conninfo_to_dict(given)  # which refuses what libpq does not know
    assert config.dsn == Config(dsn=config.dsn).dsn


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("postgresql://u:s3cret@h/d?schema=app", r"'schema': write search_path, or for the bus the setting namespace"),
        ("postgresql://u:s3cret@h/d?connection_limit=5", r"'connection_limit': the setting pool_size"),
        ("postgresql://u:s3cret@h/d?sslmod=require", r"'sslmod', which is not known; did you mean 'sslmode'\?"),
        ("postgresql://u:s3cret@h/d?vacuum_x=1", r"'vacuum_x', which is not known; .* options=-c%20vacuum_x%3DVALUE"),
        ("postgresql://u:s3cret@h/d?sslrootcert=system", "write the path of a file of certificates"),
        ("postgresql://u:s3cret@h/d?sslmode=on", "something else for 'sslmode' than disable, allow"),
        ("postgresql://u:s3cret@h/d?target_session_attrs=rw", "for 'target_session_attrs' than any, read-write"),
        ("postgresql://u:s3cret@h/d?connect_timeout=3s", "no whole number for 'connect_timeout'"),
        ("postgresql://u:s3cret@h:99999/d", "no number from 1 to 65535"),
        ("postgresql://u:s3cret@h:5432,i:0/d", "no number from 1 to 65535"),
        ("host=h port=5432,70000 password=s3cret", "no number from 1 to 65535"),
        ("postgresql://u:x?s3cret@h/d", "percent-encode"),
        ("postgresql://u:x?s3cret=y@h/d", "percent-encode"),
        ("host=h password=s3cret stray", "nor keywords and values"),
        ("mysql://u:s3cret@h/d", "must look like postgresql://"),
    ],
)
def test_what_is_not_understood_is_told_with_what_to_write_and_without_secrets(dsn: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        Config(dsn=dsn)
    assert "s3cret" not in str(refused.value)
    with pytest.raises(ConfigurationError, match=message) as refused:
        migrate.current(dsn)
    assert "s3cret" not in str(refused.value)


def test_a_dsn_that_names_a_pooler_needs_the_databases_own_address_too() -> None:
    pooled = "postgresql://pooler/d?pgbouncer=true"
    with pytest.raises(ConfigurationError, match=r"^dsn: has `pgbouncer=true`.* as direct_dsn"):
        Config(dsn=pooled)
    with pytest.raises(ConfigurationError, match=r"^direct_dsn: has `pgbouncer=true`"):
        Config(dsn="postgresql://h/d", direct_dsn=pooled)
    config = Config(dsn=pooled, direct_dsn="postgresql://h/d")
    assert config.behind_pooler
    assert for_asyncpg(config.dsn) == for_libpq(config.dsn) == "postgresql://pooler/d"


def test_the_time_to_connect_is_what_the_dsn_says() -> None:
    assert connect_timeout("postgresql://h/d?connect_timeout=3", 10.0) == 3.0
    assert connect_timeout("postgresql://h/d?connect_timeout=0", 10.0) == 10.0
    assert connect_timeout(None, 10.0) == 10.0


def test_a_service_must_be_in_the_file_of_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = tmp_path / "services.conf"
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    with pytest.raises(ConfigurationError, match="has a 'service' that is not in the file of PGSERVICEFILE"):
        Config(dsn="service=orders")
    services.write_text("[orders]\nhost=h\npassword=%100\n")
    assert for_asyncpg(Config(dsn="service=orders").dsn) == "postgresql://?service=orders"
    with pytest.raises(ConfigurationError, match="has a 'service' that is not in the file of PGSERVICEFILE"):
        Config(dsn="postgresql://h/d?service=billing")
