//! Tables for people: columns aligned, nothing that a terminal would obey.

/// A table: a head and rows of as many cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    head: Vec<&'static str>,
    /// Whether a column's cells stand at its right end, as numbers do.
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table. A column whose name begins with `>` stands right.
    pub fn new(head: &[&'static str]) -> Self {
        Self {
            right: head.iter().map(|h| h.starts_with('>')).collect(),
            head: head.iter().map(|h| h.trim_start_matches('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table, two spaces between columns.
    pub fn render(&self) -> String {
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = (0..self.head.len())
            .map(|i| {
                let cells = self.rows.iter().filter_map(|row| row.get(i)).map(|cell| width(cell));
                cells.chain(self.head.get(i).map(|h| width(h))).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for ((cell, wide), right) in cells.zip(&widths).zip(&self.right) {
                let pad = " ".repeat(wide - width(cell).min(*wide));
                let (before, after) = if *right { (pad, String::new()) } else { (String::new(), pad) };
                line += &format!("{before}{cell}{after}  ");
            }
            line.trim_end().to_owned() + "\n"
        };
        let mut text = line(&mut self.head.iter().copied());
        for row in &self.rows {
            text += &line(&mut row.iter().map(String::as_str));
        }
        text
    }
}

/// The text without control characters.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Bytes as people read them.
pub fn bytes(n: u64) -> String {
    bytesize::ByteSize(n).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_a_terminal_obeys_nothing_in_them() {
        let mut table = Table::new(&["device", ">readings"]);
        table.row(vec!["pümp\u{1b}[2J".into(), "7".into()]);
        table.row(vec!["a".into(), "12345678901".into()]);
        let expected = "device       readings\npümp\u{fffd}[2J            7\na         12345678901\n";
        assert_eq!(table.render(), expected);
    }
}
