//! Aligned columns as podman prints them: at least 12 wide, two spaces between, the last column free.

/// Narrowest column, spaces included.
const COLUMN_MIN: usize = 12;
/// Spaces after the widest cell of a column.
const PADDING: usize = 2;

/// Aligns tab-separated lines. Neighbouring lines that both have a column share its width, as in Go's `text/tabwriter`.
pub fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines
        .iter()
        .map(|cells| vec![0; cells.len().saturating_sub(1)])
        .collect();
    for at in 0..lines.len() {
        for column in 0..widths[at].len() {
            if widths[at][column] != 0 {
                continue;
            }
            let block = lines[at..].iter().take_while(|cells| cells.len() > column + 1).count();
            let widest = lines[at..at + block]
                .iter()
                .map(|cells| cells[column].chars().count())
                .max();
            let width = (widest.unwrap_or(0) + PADDING).max(COLUMN_MIN);
            for row in &mut widths[at..at + block] {
                row[column] = width;
            }
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (cells, widths) in lines.iter().zip(&widths) {
        for (at, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(at) {
                let fill = width.saturating_sub(cell.chars().count());
                out.extend(std::iter::repeat_n(' ', fill));
            }
        }
        out.push('\n');
    }
    out
}

/// Makes text safe for a cell or a terminal: control characters, which could move the cursor, become `?`.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_twelve_wide_or_as_wide_as_the_widest_cell() {
        let text = "CONTAINER ID\tIMAGE\tNAMES\n0123456789ab\tdocker.io/library/alpine:latest\tweb\n";
        assert_eq!(
            align(text),
            "CONTAINER ID  IMAGE                            NAMES\n\
             0123456789ab  docker.io/library/alpine:latest  web\n"
        );
        assert_eq!(align("A\tB\tC"), "A           B           C\n");
        assert_eq!(align("one\nA\tB\n"), "one\nA           B\n");
        assert_eq!(align(""), "");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a?[2Jb?");
    }
}
