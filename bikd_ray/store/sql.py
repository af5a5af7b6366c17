"""SQL over the tables of a store, by DuckDB."""

import re
from collections.abc import Callable, Sequence
from itertools import count

import pyarrow as pa

from bikd_ray.errors import UserError
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.store.upgrade import with_old_names

_CHANGED = re.compile(r"\b(UHUGEINT|BIT|BIGNUM|VARINT|TIME WITH TIME ZONE)\b")
"""Types of DuckDB that come out of its Arrow tables as other values: -1, bytes, no time zone."""


def _refuse_changed(names: Sequence[str], types: Sequence[object]) -> None:
    for name, kind in zip(names, types, strict=True):
        if found := _CHANGED.search(re.sub(r'"[^"]*"', "", str(kind))):
            raise UserError(
                f"sql: column {name!r} of type {found[1]} cannot be shown; cast it to varchar"
            )


def select(query: str, table: Callable[[str], pa.Table]) -> pa.Table:
    """What a query that reads answers. table: gives the rows of a table by its name; only those
    that the query names are asked for. Raises UserError.
    """
    import duckdb  # no other answer needs it

    with duckdb.connect(config={"enable_external_access": False}) as connection:
        try:
            statements = connection.extract_statements(query)
            if [s.type for s in statements] != [duckdb.StatementType.SELECT]:
                raise UserError("sql: give one query that reads, such as: select * from jobs")
            read = {name.casefold() for name in connection.get_table_names(query)}
            for name, schema in SCHEMAS.items():  # the others can still be described
                rows = table(name) if name in read else schema.empty_table()
                connection.register(name, with_old_names(name, rows))
            connection.execute("SET lock_configuration = true")
            relation = connection.sql(query)
            _refuse_changed(relation.columns, relation.types)
            answer = relation.to_arrow_table()
            return answer.rename_columns(_told_apart(answer.column_names))
        except (duckdb.Error, pa.ArrowException) as error:
            raise UserError(f"sql: {str(error).strip().splitlines()[0]}") from None


def _told_apart(names: Sequence[str]) -> list[str]:
    """Each name once: `a, a, a_1` gives `a, a_2, a_1`."""
    taken, found = set(names), list[str]()
    for name in names:
        numbered = (f"{name}_{n}" for n in count(1))
        fresh = name if name not in found else next(n for n in numbered if n not in taken)
        taken.add(fresh)
        found.append(fresh)
    return found
