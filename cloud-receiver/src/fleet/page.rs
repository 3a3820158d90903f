//! Draws the fleet as HTML: functions from rows to text; every text from outside is escaped by the templates.

use askama::Template;
use tributary_contract::time::Timestamp;

use super::{Fleet, GatewayRow, TableRow, Word, instant, readable};

/// The style sheet, served beside the pages.
pub const STYLE: &str = include_str!("../../templates/style.css");

#[derive(Template)]
#[template(path = "roster.html")]
struct RosterPage<'f> {
    fleet: &'f Fleet,
    now: Timestamp,
    counts: Vec<(Word, usize)>,
}

#[derive(Template)]
#[template(path = "gateway.html")]
struct GatewayPage<'f> {
    gateway: &'f GatewayRow,
    now: Timestamp,
}

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage<'m> {
    title: &'m str,
    text: &'m str,
    now: Timestamp,
}

/// The roster with the tables.
pub fn roster(fleet: &Fleet) -> Result<String, askama::Error> {
    let count = |w: Word| (w, fleet.gateways.iter().filter(|g| g.health == w).count());
    let counts = Word::ALL.into_iter().map(count).filter(|(_, n)| *n > 0).collect();
    RosterPage { fleet, now: fleet.at, counts }.render()
}

/// One gateway; `None` if it isn't in the fleet.
pub fn gateway(fleet: &Fleet, name: &str) -> Option<Result<String, askama::Error>> {
    let gateway = fleet.gateways.iter().find(|g| g.gateway == name)?;
    Some(GatewayPage { gateway, now: fleet.at }.render())
}

/// A page that only says something.
pub fn message(title: &str, text: &str, now: Timestamp) -> Result<String, askama::Error> {
    MessagePage { title, text, now }.render()
}

/// How long ago, for people: `just now`, `5 min ago`, `3 h ago`, `2 days ago`.
pub fn ago(then: &Option<Timestamp>, now: &Timestamp) -> String {
    let Some(then) = then else { return "never".to_owned() };
    let seconds = now.since(*then) / 1_000_000;
    match seconds {
        i64::MIN..=-61 => "in the future".to_owned(),
        -60..=59 => "just now".to_owned(),
        60..=7199 => format!("{} min ago", seconds / 60),
        7200..=172_799 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// A size for people.
pub fn size(bytes: &Option<u64>) -> String {
    bytes.map_or_else(|| "–".to_owned(), |b| bytesize::ByteSize(b).to_string())
}

/// A count with its digits in groups of three.
pub fn count(n: &u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Whether a table stands still.
pub fn any_stopped(tables: &[TableRow]) -> bool {
    tables.iter().any(|t| t.stopped.is_some())
}
