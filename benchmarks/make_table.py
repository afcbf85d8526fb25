"""Write a large parquet table of logits from an over-confident model, in a stream: memory stays small.

    python benchmarks/make_table.py big.parquet --rows 100_000_000 --classes 10

Columns: z0, z1, … (float32 logits), y (label, int16), language (one of 20, unevenly common). The labels are
drawn from softmax(z / 1.5), and for one language from softmax(z / 2.5): a segment that a report should find.
"""

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LANGUAGES = [f"{a}{b}" for a in "abcd" for b in "ptkrs"]


def draw(rng, n, n_classes):
    """Return logits, labels and the language of n rows."""
    z = rng.standard_normal((n, n_classes), dtype=np.float32) * 2
    z[np.arange(n), rng.integers(0, n_classes, n)] += 3
    language = np.minimum(rng.geometric(0.2, n) - 1, len(LANGUAGES) - 1).astype(np.int32)
    temperature = np.where(language == 7, 2.5, 1.5).astype(np.float32)
    p = np.exp((z - z.max(axis=1, keepdims=True)) / temperature[:, None])
    p = np.cumsum(p, axis=1)
    y = (p < rng.random((n, 1), dtype=np.float32) * p[:, -1:]).sum(axis=1)
    return z, y.astype(np.int16), language


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output")
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    names = [f"z{j}" for j in range(arguments.classes)]
    schema = pa.schema(
        [
            *((name, pa.float32()) for name in names),
            ("y", pa.int16()),
            ("language", pa.dictionary(pa.int32(), pa.string())),
        ]
    )
    rng = np.random.default_rng(arguments.seed)
    rows_a_group = max(1, (1 << 20) // arguments.classes)
    with pq.ParquetWriter(arguments.output, schema, use_dictionary=["language"]) as writer:
        for first in range(0, arguments.rows, rows_a_group):
            n = min(rows_a_group, arguments.rows - first)
            z, y, language = draw(rng, n, arguments.classes)
            columns = [pa.array(np.ascontiguousarray(z[:, j])) for j in range(arguments.classes)]
            columns += [pa.array(y), pa.DictionaryArray.from_arrays(language, LANGUAGES)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


if __name__ == "__main__":
    main()
