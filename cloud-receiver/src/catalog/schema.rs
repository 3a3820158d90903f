//! The contract's tables as an Iceberg catalog wants them: schema, partition spec, sort order, properties; and what a table
//! lacks that was made by an earlier version.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{
    MapType, NestedField, NullOrder, PrimitiveType, Schema, SortDirection, SortField, SortOrder, Transform,
    Type, UnboundPartitionSpec,
};
use iceberg::transaction::AddColumn;
use iceberg::{Result, TableCreation};
use tributary_contract::schema::{Column, ColumnType};
use tributary_contract::table::Table;

/// Table property: id of the only ledger that may commit to the table.
pub const LEDGER_PROPERTY: &str = "tributary.ledger";
/// Table property, and key in each snapshot's summary: number of the newest committed batch; 0 at creation.
pub const BATCH_PROPERTY: &str = "tributary.batch";
/// Name of the only partition field: the UTC day of the table's first column.
pub const PARTITION: &str = "day";

/// Everything a catalog needs to create `table` at `location`, owned by `ledger`: with the columns of version 1, because
/// catalogs number the fields of a new table anew, nested ones last. What came later is [`missing`] and added at once.
pub fn creation(table: Table, ledger: &str, location: String) -> Result<TableCreation> {
    Ok(TableCreation::builder()
        .name(table.name().to_owned())
        .location(location)
        .schema(schema(table.first_columns())?)
        .partition_spec(partition_spec(table)?)
        .sort_order(sort_order(table)?)
        .properties(properties(table, ledger))
        .build())
}

/// The Iceberg schema of these columns, with the contract's field ids and docs.
fn schema(columns: &[Column]) -> Result<Schema> {
    let fields = columns.iter().map(|c| Arc::new(field(c)));
    Schema::builder().with_schema_id(0).with_fields(fields).build()
}

/// The id of a column that came later was given to a column of somebody else: files that have the one would be read as the
/// other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "table {table}: this version has column `{column}` as field {id}, which the table gave to `{found}`: somebody added \
     columns of their own; move the table away, let `ledger reregister` fill a new one, and keep own columns in a view"
)]
pub struct TakenError {
    /// Which table.
    table: Table,
    /// The contract's column.
    column: &'static str,
    /// Its field id.
    id: i32,
    /// The column that has it.
    found: String,
}

/// The columns that came later than version 1 and that the table never had, in the order in which they are to be added;
/// each then gets the contract's field id, for catalogs count on from `last_column_id`. What somebody dropped stays
/// dropped, what somebody renamed stays renamed, and other columns of somebody else are let be.
pub fn missing(
    table: Table,
    current: &Schema,
    last_column_id: i32,
) -> std::result::Result<Vec<&'static Column>, TakenError> {
    let later = table.columns().split_at(table.first_columns().len()).1;
    let mut missing = Vec::new();
    for column in later {
        let wanted = field(column);
        let ours = |f: &NestedField| {
            f.field_type == wanted.field_type && (f.name == wanted.name || f.doc == wanted.doc)
        };
        match current.field_by_id(column.id) {
            Some(found) if ours(found) => {}
            None if column.id <= last_column_id => {}
            None if current.field_by_name(column.name).is_none() => missing.push(column),
            found => {
                let found = found.map_or(column.name, |f| f.name.as_str()).to_owned();
                return Err(TakenError { table, column: column.name, id: column.id, found });
            }
        }
    }
    Ok(missing)
}

/// The column as it is added to a table.
pub fn addition(column: &Column) -> AddColumn {
    AddColumn::builder().name(column.name).field_type(*field(column).field_type).doc(column.doc).build()
}

/// `day(first column)`, named [`PARTITION`].
pub fn partition_spec(table: Table) -> Result<UnboundPartitionSpec> {
    let source = table.day_column().id;
    Ok(UnboundPartitionSpec::builder().add_partition_field(source, PARTITION, Transform::Day)?.build())
}

/// Ascending by [`Table::sort_columns`]. All of them are required columns, so the place of nulls has no effect.
pub fn sort_order(table: Table) -> Result<SortOrder> {
    let fields = sort_ids(table).map(|source_id| SortField {
        source_id,
        transform: Transform::Identity,
        direction: SortDirection::Ascending,
        null_order: NullOrder::First,
    });
    SortOrder::builder().with_order_id(1).with_fields(fields.collect()).build_unbound()
}

/// Field ids of [`Table::sort_columns`], in their order.
pub fn sort_ids(table: Table) -> impl Iterator<Item = i32> {
    table.sort_columns().iter().filter_map(move |name| table.column(name)).map(|c| c.id)
}

/// Properties of a new table. No name mapping: segments carry field ids, and a file without them is refused.
pub fn properties(table: Table, ledger: &str) -> HashMap<String, String> {
    [
        (LEDGER_PROPERTY, ledger),
        (BATCH_PROPERTY, "0"),
        ("comment", table.doc()),
        ("write.format.default", "parquet"),
        ("write.parquet.compression-codec", "zstd"),
        ("write.metadata.metrics.default", "truncate(16)"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

fn field(column: &Column) -> NestedField {
    let kind = match column.kind {
        ColumnType::Timestamp => Type::Primitive(PrimitiveType::Timestamp),
        ColumnType::String => Type::Primitive(PrimitiveType::String),
        ColumnType::Double => Type::Primitive(PrimitiveType::Double),
        ColumnType::Long => Type::Primitive(PrimitiveType::Long),
        ColumnType::Int => Type::Primitive(PrimitiveType::Int),
        ColumnType::Boolean => Type::Primitive(PrimitiveType::Boolean),
        ColumnType::Binary => Type::Primitive(PrimitiveType::Binary),
        ColumnType::StringMap { key_id, value_id } => {
            let text = || Type::Primitive(PrimitiveType::String);
            Type::Map(MapType::new(
                NestedField::map_key_element(key_id, text()).into(),
                NestedField::map_value_element(value_id, text(), true).into(),
            ))
        }
    };
    NestedField::new(column.id, column.name, kind, column.required).with_doc(column.doc)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use iceberg::spec::TableMetadataBuilder;
    use tributary_contract::schema::FIELD_ID_KEY;

    use super::*;

    /// Names and ids of all fields of version 1, nested ones by their path.
    fn contract_ids(table: Table) -> BTreeMap<String, i32> {
        let mut ids = BTreeMap::new();
        for c in table.first_columns() {
            ids.insert(c.name.to_owned(), c.id);
            if let ColumnType::StringMap { key_id, value_id } = c.kind {
                ids.insert(format!("{}.key", c.name), key_id);
                ids.insert(format!("{}.value", c.name), value_id);
            }
        }
        ids
    }

    #[test]
    fn a_created_table_keeps_the_field_ids_of_the_contract() {
        for table in Table::ALL {
            let creation = creation(table, "l", "s3://b/lake/t".into()).unwrap();
            let metadata =
                TableMetadataBuilder::from_table_creation(creation).unwrap().build().unwrap().metadata;
            let created: BTreeMap<String, i32> = metadata
                .current_schema()
                .field_id_to_name_map()
                .iter()
                .map(|(id, name)| (name.clone(), *id))
                .collect();
            assert_eq!(created, contract_ids(table), "{table}");
            for c in table.first_columns() {
                let field = metadata.current_schema().field_by_id(c.id).unwrap();
                assert_eq!(field.doc.as_deref(), Some(c.doc), "{table}.{}", c.name);
                assert_eq!(field.required, c.required, "{table}.{}", c.name);
            }
        }
    }

    #[test]
    fn what_came_later_is_added_where_it_never_was() {
        let table = Table::Aggregates;
        let later = table.columns().split_at(table.first_columns().len()).1;
        let names = |columns: Vec<&Column>| columns.iter().map(|c| c.name).collect::<Vec<_>>();
        let all: Vec<&str> = later.iter().map(|c| c.name).collect();
        let at = |columns: &[Column], last| missing(table, &schema(columns).unwrap(), last);
        let (first, first_id) = (table.first_columns(), later[0].id);
        assert_eq!(names(at(first, first_id - 1).unwrap()), all);
        assert_eq!(names(at(table.columns(), later[later.len() - 1].id).unwrap()), [""; 0]);
        assert_eq!(names(at(&table.columns()[..first.len() + 1], first_id).unwrap()), all[1..]);
        assert_eq!(names(at(first, 99).unwrap()), [""; 0], "dropped by somebody, so it stays");
        let with = |column: Column| at(&[first, &[column]].concat(), column.id);
        let renamed = Column { name: "growth", ..later[0] };
        assert_eq!(names(with(renamed).unwrap()), all[1..], "renamed by somebody, so it stays");
        let other = Column { name: "note", doc: "", ..later[0] };
        let refused = with(other).unwrap_err().to_string();
        assert!(refused.contains("field 33") && refused.contains("`note`"), "{refused}");
        assert!(with(Column { kind: ColumnType::String, ..later[0] }).is_err());
        for table in Table::ALL {
            let last = table.first_columns().len() as i32 + 2;
            assert!(missing(table, &schema(table.first_columns()).unwrap(), last).is_ok());
        }
    }

    #[test]
    fn a_created_table_is_partitioned_by_day_and_sorted_as_segments_are() {
        for table in Table::ALL {
            let creation = creation(table, "l", "s3://b/lake/t".into()).unwrap();
            let metadata =
                TableMetadataBuilder::from_table_creation(creation).unwrap().build().unwrap().metadata;
            let spec = metadata.default_partition_spec();
            let [day] = spec.fields() else { panic!("{table}: {spec:?}") };
            assert_eq!(
                (day.source_id, day.name.as_str(), day.transform),
                (1, "day", Transform::Day),
                "{table}"
            );
            let sorted: Vec<i32> = metadata.default_sort_order().fields.iter().map(|f| f.source_id).collect();
            assert_eq!(sorted, sort_ids(table).collect::<Vec<_>>(), "{table}");
            assert_eq!(sorted.len(), table.sort_columns().len(), "{table}");
        }
    }

    #[test]
    fn segments_and_table_agree_on_types() {
        for table in Table::ALL {
            let from_segment = iceberg::arrow::arrow_schema_to_schema(table.arrow_schema().as_ref()).unwrap();
            let ours = schema(table.columns()).unwrap();
            for field in ours.as_struct().fields() {
                let other = from_segment.field_by_id(field.id).unwrap();
                assert_eq!((&other.name, other.required), (&field.name, field.required), "{table}");
                assert_eq!(other.field_type, field.field_type, "{table}.{}", field.name);
            }
            assert!(table.arrow_schema().fields().iter().all(|f| f.metadata().contains_key(FIELD_ID_KEY)));
        }
    }
}
