"""What others take for the rows of real segments: `parquet_peers.py FOLDER`, with a folder of segments for each set.

Prints a JSON line a set: the bytes of the same rows in pyarrow's defaults (in the order of receipt, snappy), in the best
that pyarrow can do (sorted, zstd 19, the smallest of some encodings for each column), and in pco: each series' times, values
and numbers by themselves, the bound below which no file with anything else in it is expected.
"""

import collections
import io
import json
import pathlib
import sys

import numpy
import pyarrow
import pyarrow.parquet
from pcodec import ChunkConfig, standalone

NUMBERS = {"ts", "received_at", "seq", "value"}
CANDIDATES = {
    "ts": ["DELTA_BINARY_PACKED", "PLAIN"],
    "received_at": ["DELTA_BINARY_PACKED", "PLAIN", "BYTE_STREAM_SPLIT"],
    "seq": ["DELTA_BINARY_PACKED", "PLAIN"],
    "value": ["PLAIN", "BYTE_STREAM_SPLIT"],
}


def size(table, **how) -> int:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, **how)
    return sink.tell()


def best(table) -> int:
    """Sorted, zstd 19; each numeric column by whichever encoding is smallest."""
    how = {"compression": "zstd", "compression_level": 19, "store_schema": False}
    chosen = {}
    for column, encodings in CANDIDATES.items():
        alone = table.select([column])
        sizes = {e: size(alone, use_dictionary=False, column_encoding={column: e}, **how) for e in encodings}
        chosen[column] = min(sizes, key=sizes.get)
    texts = [name for name in table.column_names if name not in NUMBERS]
    return size(table, use_dictionary=texts, column_encoding=chosen, **how)


def pco(table) -> int:
    names = table.select(["device", "metric"]).to_pydict()
    series = collections.defaultdict(list)
    for row, name in enumerate(zip(names["device"], names["metric"])):
        series[name].append(row)
    total = 0
    for column in sorted(NUMBERS):
        numbers = table[column]
        if pyarrow.types.is_timestamp(numbers.type):
            numbers = numbers.cast(pyarrow.int64())
        numbers = numbers.to_numpy()
        for rows in series.values():
            one = numpy.ascontiguousarray(numbers[rows])
            total += min(len(standalone.simple_compress(one, ChunkConfig(compression_level=level))) for level in (8, 12))
    return total


def main(folder: pathlib.Path):
    for of_set in sorted(folder.iterdir()):
        sums = collections.Counter()
        for file in sorted(of_set.glob("*.parquet")):
            table = pyarrow.parquet.ParquetFile(file).read()
            in_order = table.sort_by([("device", "ascending"), ("metric", "ascending"), ("ts", "ascending"), ("seq", "ascending")])
            sums["defaults"] += size(table.sort_by("seq"))
            sums["best"] += best(in_order)
            sums["pco"] += pco(in_order)
        print(json.dumps({"set": of_set.name, **sums}))


main(pathlib.Path(sys.argv[1]))
