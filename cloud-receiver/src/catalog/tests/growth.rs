//! Tables that an earlier version made: they grow by the columns that came later.

use super::*;

/// A table `aggregates` as version 1 made it, with one segment in it.
async fn first_version(world: &World) -> u64 {
    let (namespace, table) = (Namespace::default(), Table::Aggregates);
    let creation =
        schema::creation(table, "l", format!("file://{}/lake/aggregates", world.dir.path().display()));
    let owner = NamespaceIdent::new(namespace.as_str().to_owned());
    world.lake.catalog.create_namespace(&owner, HashMap::new()).await.unwrap();
    world.lake.catalog.create_table(&owner, creation.unwrap()).await.unwrap();
    let first: Vec<usize> = (0..table.first_columns().len()).collect();
    let look = world.lake.peek(&namespace, table).await.unwrap().unwrap();
    let file = aggregates(world, 1, |rows| rows.project(&first).unwrap());
    world.lake.commit(&look, 1, vec![file]).await.unwrap();
    look.loaded.metadata().current_schema().as_struct().fields().len() as u64
}

/// A segment of two aggregates, written to the bucket's folder.
fn aggregates(world: &World, number: u64, change: impl FnOnce(RecordBatch) -> RecordBatch) -> NewFile {
    let mut key = crate::fixture::Forge::new("gw-1", 1).seal(Table::Aggregates, 2).key;
    key.id.number = Number::new(number).unwrap();
    let bytes = crate::fixture::encode(&change(crate::fixture::rows(&key, 2)), None);
    let path = world.dir.path().join(key.object_key(&Prefix::default()));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &bytes).unwrap();
    NewFile {
        uri: format!("file://{}", path.display()),
        size: bytes.len() as u64,
        namespace: key.namespace,
        table: key.table,
        day: key.day,
        footer: crate::validate::content::read_footer(&bytes).unwrap().unwrap(),
    }
}

#[tokio::test]
async fn a_table_of_an_earlier_version_grows_by_the_columns_it_lacks_and_shows_old_and_new_rows() {
    let world = World::new().await;
    assert_eq!(first_version(&world).await, Table::Aggregates.first_columns().len() as u64);
    let (namespace, table) = (Namespace::default(), Table::Aggregates);
    let other = world.lake.look(&namespace, table, "another ledger").await.unwrap();
    assert!(
        other.loaded.metadata().current_schema().field_by_name("value_rate").is_none(),
        "not theirs to change"
    );
    // Two receivers at once: each finds the columns there, and there once.
    let second = world.other().await;
    let (one, two) =
        tokio::join!(world.lake.look(&namespace, table, "l"), second.look(&namespace, table, "l"));
    for look in [one.unwrap(), two.unwrap()] {
        let schema = look.loaded.metadata().current_schema();
        for column in table.columns() {
            assert_eq!(schema.field_by_id(column.id).unwrap().name, column.name);
        }
        assert_eq!(look.batch, 1, "what was there is untouched");
    }
    let look = world.lake.look(&namespace, table, "l").await.unwrap();
    let with_rates = |rows: RecordBatch| {
        let at = rows.schema().index_of("value_rate").unwrap();
        let mut columns = rows.columns().to_vec();
        columns[at] = Arc::new(Float64Array::from(vec![Some(2.5), None]));
        RecordBatch::try_new(rows.schema(), columns).unwrap()
    };
    world.lake.commit(&look, 2, vec![aggregates(&world, 2, with_rates)]).await.unwrap();
    let loaded = world.lake.catalog.load_table(&ident(&namespace, table)).await.unwrap();
    let scan = loaded.scan().select(["segment_number", "value_rate"]).build().unwrap();
    let mut rows = Vec::new();
    for batch in scan.to_arrow().await.unwrap().try_collect::<Vec<RecordBatch>>().await.unwrap() {
        let numbers = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().clone();
        let rates = batch.column(1).as_any().downcast_ref::<Float64Array>().unwrap().clone();
        rows.extend(numbers.iter().zip(rates.iter()).map(|(number, rate)| (number.unwrap(), rate)));
    }
    rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!(rows, [(1, None), (1, None), (2, None), (2, Some(2.5))]);
}

#[tokio::test]
async fn a_column_of_somebody_else_under_an_id_of_ours_stops_the_table_and_says_which() {
    let world = World::new().await;
    first_version(&world).await;
    let (namespace, table) = (Namespace::default(), Table::Aggregates);
    let loaded = world.lake.catalog.load_table(&ident(&namespace, table)).await.unwrap();
    let kind = iceberg::spec::Type::Primitive(iceberg::spec::PrimitiveType::Double);
    let column = iceberg::transaction::AddColumn::optional("shift", kind);
    let transaction = Transaction::new(&loaded);
    let added = transaction.update_schema().add_column(column).apply(transaction).unwrap();
    added.commit(&*world.lake.catalog).await.unwrap();
    let refused = world.lake.look(&namespace, table, "l").await.unwrap_err().to_string();
    assert!(refused.contains("`shift`") && refused.contains("`value_increase`"), "{refused}");
}
