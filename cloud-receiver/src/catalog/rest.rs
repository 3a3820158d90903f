//! The catalog for engines: Iceberg's REST protocol, read-only, so that DuckDB, pyiceberg, Spark and Trino attach by URL.
//!
//! Answers carry no secrets: engines bring credentials of their own for the files. Lists come in one page. Whoever
//! listens decides who may ask; nothing here checks a token.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use iceberg::{Catalog, ErrorKind, NamespaceIdent, TableIdent};
use serde::Deserialize;
use serde_json::json;

/// Between the levels of a namespace in a URL.
const LEVELS: char = '\u{1F}';

/// What the handlers share.
#[derive(Debug)]
struct Served {
    catalog: Arc<dyn Catalog>,
    /// Where the files lie: endpoint, region, style of addresses.
    config: BTreeMap<String, String>,
}

type Shared = State<Arc<Served>>;

/// The routes, to be nested under any path; `config` goes to each reader and must hold no secret.
pub(super) fn router(catalog: Arc<dyn Catalog>, config: BTreeMap<String, String>) -> Router {
    let no_view =
        || async { failure(StatusCode::NOT_FOUND, "NoSuchViewException", "this catalog has no views") };
    Router::new()
        .route("/v1/config", get(configuration))
        .route("/v1/namespaces", get(namespaces))
        .route("/v1/namespaces/{ns}", get(namespace).head(namespace_exists))
        .route("/v1/namespaces/{ns}/tables", get(tables))
        .route("/v1/namespaces/{ns}/tables/{table}", get(table).head(table_exists))
        .route("/v1/namespaces/{ns}/tables/{table}/metrics", post(metrics))
        .route("/v1/namespaces/{ns}/views", get(views))
        .route("/v1/namespaces/{ns}/views/{view}", get(no_view).head(no_view))
        .fallback(unknown)
        .method_not_allowed_fallback(read_only)
        .with_state(Arc::new(Served { catalog, config }))
}

/// An answer in the protocol's error model.
fn failure(status: StatusCode, kind: &str, message: impl Into<String>) -> Response {
    let error = json!({ "message": message.into(), "type": kind, "code": status.as_u16() });
    (status, Json(json!({ "error": error }))).into_response()
}

/// An error of the catalog as the protocol names it.
fn refusal(error: &iceberg::Error) -> Response {
    match error.kind() {
        ErrorKind::NamespaceNotFound => {
            failure(StatusCode::NOT_FOUND, "NoSuchNamespaceException", error.message())
        }
        ErrorKind::TableNotFound => failure(StatusCode::NOT_FOUND, "NoSuchTableException", error.message()),
        _ => {
            tracing::warn!(%error, "catalog request failed");
            let message = "the receiver can't read its catalog or bucket now; its log says why";
            failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableException", message)
        }
    }
}

fn ident(namespace: &str) -> NamespaceIdent {
    // Never empty: splitting yields at least one part.
    NamespaceIdent::from_strs(namespace.split(LEVELS))
        .unwrap_or_else(|_| NamespaceIdent::new(namespace.to_owned()))
}

async fn configuration() -> Response {
    let endpoints = [
        "GET /v1/{prefix}/namespaces",
        "GET /v1/{prefix}/namespaces/{namespace}",
        "HEAD /v1/{prefix}/namespaces/{namespace}",
        "GET /v1/{prefix}/namespaces/{namespace}/tables",
        "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
        "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
        "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}/metrics",
    ];
    Json(json!({ "defaults": {}, "overrides": {}, "endpoints": endpoints })).into_response()
}

#[derive(Debug, Deserialize)]
struct Parent {
    parent: Option<String>,
}

async fn namespaces(State(served): Shared, Query(Parent { parent }): Query<Parent>) -> Response {
    let parent = parent.filter(|p| !p.is_empty()).map(|p| ident(&p));
    match served.catalog.list_namespaces(parent.as_ref()).await {
        Ok(found) => Json(json!({ "namespaces": found })).into_response(),
        Err(e) => refusal(&e),
    }
}

async fn namespace(State(served): Shared, Path(ns): Path<String>) -> Response {
    match served.catalog.get_namespace(&ident(&ns)).await {
        Ok(found) => {
            Json(json!({ "namespace": found.name(), "properties": found.properties() })).into_response()
        }
        Err(e) => refusal(&e),
    }
}

async fn namespace_exists(State(served): Shared, Path(ns): Path<String>) -> Response {
    match served.catalog.namespace_exists(&ident(&ns)).await {
        Ok(exists) => existence(exists),
        Err(e) => refusal(&e),
    }
}

async fn tables(State(served): Shared, Path(ns): Path<String>) -> Response {
    match served.catalog.list_tables(&ident(&ns)).await {
        Ok(found) => Json(json!({ "identifiers": found })).into_response(),
        Err(e) => refusal(&e),
    }
}

async fn table(State(served): Shared, Path((ns, table)): Path<(String, String)>) -> Response {
    let loaded = match served.catalog.load_table(&TableIdent::new(ident(&ns), table)).await {
        Ok(loaded) => loaded,
        Err(e) => return refusal(&e),
    };
    let location: Option<&str> = loaded.metadata_location();
    match serde_json::to_value(loaded.metadata()) {
        Ok(metadata) => {
            Json(json!({ "metadata-location": location, "metadata": metadata, "config": served.config }))
                .into_response()
        }
        Err(e) => failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", e.to_string()),
    }
}

async fn table_exists(State(served): Shared, Path((ns, table)): Path<(String, String)>) -> Response {
    match served.catalog.table_exists(&TableIdent::new(ident(&ns), table)).await {
        Ok(exists) => existence(exists),
        Err(e) => refusal(&e),
    }
}

fn existence(exists: bool) -> Response {
    if exists { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }.into_response()
}

async fn views(State(served): Shared, Path(ns): Path<String>) -> Response {
    match served.catalog.get_namespace(&ident(&ns)).await {
        Ok(_) => Json(json!({ "identifiers": [] })).into_response(),
        Err(e) => refusal(&e),
    }
}

/// Engines report how a scan went; nobody here asks.
async fn metrics() -> StatusCode {
    StatusCode::NO_CONTENT
}

async fn read_only() -> Response {
    let message =
        "this catalog is read-only: tables are written by the receiver and by engines with the SQL catalog";
    failure(StatusCode::FORBIDDEN, "ForbiddenException", message)
}

async fn unknown(method: axum::http::Method, uri: axum::http::Uri) -> Response {
    if method.is_safe() {
        failure(StatusCode::NOT_FOUND, "NotFoundException", format!("no such endpoint: {}", uri.path()))
    } else {
        read_only().await
    }
}
