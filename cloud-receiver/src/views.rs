//! Definitions of views over `aggregates` that show each window once, in its newest revision, for the engines people use.

use tributary_contract::table::Table;

/// What makes two rows of `aggregates` revisions of one window.
const KEY: [&str; 4] = ["gateway", "window_name", "series", "window_start"];

/// An engine with its own way to say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// SQL.
    Duckdb,
    /// A Python function from a lazy frame to another.
    Polars,
    /// SQL of Amazon Athena.
    Athena,
    /// SQL of Apache Spark.
    Spark,
}

/// The definition of the view `aggregates_newest` of that namespace; `from` is the table's name in the engine, where it
/// isn't the usual one.
pub fn newest(engine: Engine, namespace: &str, from: Option<&str>) -> String {
    let from = |usual: String| from.map_or(usual, str::to_owned);
    match engine {
        Engine::Polars => {
            let key = KEY.map(|k| format!("\"{k}\"")).join(", ");
            format!(
                "import polars as pl\n\n\n\
                 def aggregates_newest(aggregates: pl.LazyFrame) -> pl.LazyFrame:\n    \
                 newest = pl.col(\"revision\").max().over([{key}])\n    \
                 return aggregates.filter(pl.col(\"revision\") == newest)\n\n\n\
                 # aggregates_newest(pl.scan_iceberg(catalog.load_table(\"{namespace}.aggregates\")))"
            )
        }
        // Attached as: attach 'tributary' as lake (type iceberg, endpoint 'http://…/iceberg', …)
        Engine::Duckdb => sql("aggregates_newest", &from(format!("lake.{namespace}.aggregates"))),
        Engine::Athena | Engine::Spark => {
            sql(&format!("{namespace}.aggregates_newest"), &from(format!("{namespace}.aggregates")))
        }
    }
}

fn sql(view: &str, from: &str) -> String {
    // The columns by name: views of some engines keep those that there were when they were made.
    let columns = Table::Aggregates.columns().iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
    let key = KEY.join(", ");
    format!(
        "create or replace view {view} as\nselect {columns}\nfrom (\n  select *, row_number() over (partition by {key} \
         order by revision desc) as newest_first\n  from {from}\n) as revisions\nwhere newest_first = 1;"
    )
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn each_engine_gets_a_view_over_its_name_of_the_table_by_the_key_of_windows() {
        for engine in Engine::value_variants() {
            let text = newest(*engine, "plant_a", None);
            assert!(KEY.iter().all(|k| text.contains(k)), "{text}");
            assert!(text.contains("plant_a.aggregates"), "{text}");
        }
        let text = newest(Engine::Spark, "tributary", Some("here"));
        assert!(text.contains("from here\n") && !text.contains("from tributary.aggregates"), "{text}");
        for column in Table::Aggregates.columns() {
            assert!(text.contains(column.name), "{} is missing", column.name);
        }
    }
}
