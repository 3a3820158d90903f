//! Serves page, API and the read-only catalog over HTTP, to those who show the token where one is set.

use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Json, Redirect, Response};
use axum::routing::get;
use axum::{Router, http::Method};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tributary_contract::digest::Digest;

use super::{Fleet, page, roster};
use crate::dedupe::{LedgerError, LedgerHandle};
use crate::pipeline::health::{Failing, Health};
use crate::pipeline::run::now;

const COOKIE: &str = "tributary";
const ICON: &str = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><path d='M2 2c4 0 6 4 6 12M14 2c-4 \
                    0-6 4-6 12' fill='none' stroke='#0b6b58' stroke-width='2.5' stroke-linecap='round'/></svg>";

/// What the server shows.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The ledger.
    pub ledger: LedgerHandle,
    /// What works and what doesn't.
    pub health: Health,
    /// Digest of the token that callers must show.
    pub token: Option<Digest>,
}

/// The answer of `/api/health`.
#[derive(Debug, Clone, Serialize)]
pub struct HealthReport {
    /// Whether everything works.
    pub ok: bool,
    /// What fails.
    pub failing: Vec<Failing>,
    /// Tables that stand still, and why.
    pub stopped: Vec<String>,
}

/// Page, API, and `catalog` nested under `/iceberg`.
pub fn router(shown: Shown, catalog: Router) -> Router {
    let shown = Arc::new(shown);
    Router::new()
        .route("/", get(roster_page))
        .route("/gateway/{id}", get(gateway_page))
        .route("/api/fleet", get(api_fleet))
        .route("/api/health", get(api_health))
        .route("/style.css", get(|| async { ([(header::CONTENT_TYPE, "text/css")], page::STYLE) }))
        .route("/icon.svg", get(|| async { ([(header::CONTENT_TYPE, "image/svg+xml")], ICON) }))
        .fallback(|| async { say(StatusCode::NOT_FOUND, "Not found", "There is no such page.") })
        .with_state(Arc::clone(&shown))
        .nest("/iceberg", catalog)
        .layer(middleware::from_fn_with_state(shown, guard))
        .layer(middleware::from_fn(safe_headers))
}

/// Serves `router` until `stop`.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await
}

/// The fleet as the ledger and the receiver see it now.
pub async fn fleet(ledger: &LedgerHandle, health: &Health) -> Result<Fleet, LedgerError> {
    let failing = health.failing();
    let facts = ledger.call(|l| Ok((l.gateways()?, l.tables()?, l.strays()?))).await;
    let (gateways, tables, strays) = facts?;
    Ok(roster::fleet(gateways, tables, failing, strays, now()))
}

async fn roster_page(State(shown): State<Arc<Shown>>) -> Response {
    match fleet(&shown.ledger, &shown.health).await {
        Ok(fleet) => html(page::roster(&fleet)),
        Err(e) => trouble(&e),
    }
}

async fn gateway_page(State(shown): State<Arc<Shown>>, Path(id): Path<String>) -> Response {
    match fleet(&shown.ledger, &shown.health).await {
        Ok(fleet) => match page::gateway(&fleet, &id) {
            Some(page) => html(page),
            None => say(StatusCode::NOT_FOUND, "Unknown gateway", "Nothing of that gateway ever came here."),
        },
        Err(e) => trouble(&e),
    }
}

async fn api_fleet(State(shown): State<Arc<Shown>>) -> Response {
    match fleet(&shown.ledger, &shown.health).await {
        Ok(fleet) => Json(fleet).into_response(),
        Err(e) => trouble(&e),
    }
}

async fn api_health(State(shown): State<Arc<Shown>>) -> Response {
    let failing = shown.health.failing();
    match shown.ledger.call(|l| l.tables()).await {
        Ok(tables) => {
            let stopped: Vec<String> = tables.into_iter().filter_map(|t| t.stopped).collect();
            let ok = failing.is_empty() && stopped.is_empty();
            let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, Json(HealthReport { ok, failing, stopped })).into_response()
        }
        Err(e) => trouble(&e),
    }
}

fn html(page: Result<String, askama::Error>) -> Response {
    match page {
        Ok(text) => Html(text).into_response(),
        Err(e) => {
            tracing::error!("page: {e}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn say(status: StatusCode, title: &str, text: &str) -> Response {
    (status, html(page::message(title, text, now()))).into_response()
}

fn trouble(error: &LedgerError) -> Response {
    say(StatusCode::SERVICE_UNAVAILABLE, "The ledger doesn't answer", &error.to_string())
}

#[derive(Deserialize)]
struct Login {
    token: Option<String>,
}

/// Lets through who shows the token: as bearer, or in the cookie that `/?token=…` sets.
async fn guard(
    State(shown): State<Arc<Shown>>,
    Query(login): Query<Login>,
    request: Request,
    next: Next,
) -> Response {
    let Some(expected) = shown.token else { return next.run(request).await };
    // Digests are compared: how long that takes says nothing about the token.
    let right = |token: &str| Digest::of(token.as_bytes()) == expected;
    if let Some(token) =
        login.token.filter(|_| request.method() == Method::GET && request.uri().path() == "/")
        && right(&token)
        && let Ok(cookie) = HeaderValue::from_str(&format!(
            "{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=86400"
        ))
    {
        return ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response();
    }
    if shown_tokens(request.headers()).any(right) {
        return next.run(request).await;
    }
    let mut response =
        say(StatusCode::UNAUTHORIZED, "Token needed", "Open /?token=TOKEN, or send it as a bearer token.");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn shown_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "));
    let cookies =
        headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    let cookie = cookies.filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='));
    bearer.into_iter().chain(cookie)
}

/// Pages load nothing but our own style sheet, run no scripts and can't be framed.
async fn safe_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
