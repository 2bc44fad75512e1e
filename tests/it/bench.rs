//! What the bench suite writes: rows as text and as JSON, axes and their ticks, drawings.

#[path = "../bench/chart.rs"]
#[allow(dead_code)]
mod chart;
#[path = "../bench/table.rs"]
#[allow(dead_code)]
mod table;

use chart::{Axis, Panel, Series};
use table::{Figure, Line, Results, Row, Table, number};

fn row(name: &str, measured: Vec<Figure>) -> Row {
    Row {
        row: name.into(),
        what: "a | b".into(),
        budget: "≤ 1 ms".into(),
        measured,
    }
}

#[test]
fn numbers_have_three_digits_that_count() {
    for (value, text) in [
        (0.0, "0"),
        (0.0004, "0"),
        (0.0972, "0.097"),
        (0.5, "0.5"),
        (4.704, "4.7"),
        (11.86, "11.9"),
        (10.0, "10"),
        (100.0, "100"),
        (1733.4, "1733"),
        (4_169_320.0, "4169320"),
        (-3.25, "-3.25"),
    ] {
        assert_eq!(number(value), text, "{value}");
    }
}

#[test]
fn figures_are_told_in_words() {
    let figures = vec![
        Figure::new("", 1.0, ""),
        Figure::new("dunlin", 4.7, "ms").note("4 to 6, 20 runs"),
        Figure::new("ratio", 0.4, "×"),
        Figure::missing("podman", "is not\ninstalled\n"),
        Figure::missing("", "needs root"),
    ];
    assert_eq!(
        row("N8", figures).text(),
        "1; dunlin 4.7 ms (4 to 6, 20 runs); ratio 0.4 ×; podman: not measured: is not installed; not measured: needs root"
    );
}

#[test]
fn rows_stand_by_their_numbers_and_cells_stay_cells() {
    let mut table = Table::default();
    for name in ["N10", "N9", "growth", "N1", "N9"] {
        table.rows.push(row(name, vec![Figure::new("", 1.0, "ms")]));
    }
    table.sort();
    let text = table.markdown();
    let first: Vec<&str> = text
        .lines()
        .skip(2)
        .map(|line| line.split(' ').nth(1).unwrap())
        .collect();
    assert_eq!(first, ["N1", "N9", "N9", "N10", "growth"]);
    assert!(text.contains("| N1 | a \\| b | ≤ 1 ms | 1 ms |"), "{text}");
}

#[test]
fn results_are_written_the_same_way_every_time_and_can_be_read() {
    let panel = Panel {
        title: "t".into(),
        x: Axis::linear("n"),
        y: Axis::log("s"),
        series: vec![Series::new("dunlin", vec![(1.0, 2.0)])],
    };
    let head = [("date", "2026"), ("a", "\"b\"")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let rows = [row("N1", vec![Figure::missing("crun", "is \"not\" here")])];
    let results = Results {
        head: &head,
        rows: &rows,
        growth: std::slice::from_ref(&panel),
    };
    let json = results.json();
    assert_eq!(json, results.json());
    assert!(json.find("\"date\"") < json.find("\"a\""), "{json}");
    let read: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(read["head"]["a"], "\"b\"");
    assert_eq!(serde_json::from_value::<Row>(read["rows"][0].clone()).unwrap(), rows[0]);
    assert_eq!(
        serde_json::from_value::<Panel>(read["growth"][0].clone()).unwrap(),
        panel
    );
    let text = results.markdown();
    assert!(text.contains("- date: 2026\n") && text.contains("growth.svg"), "{text}");
    for line in [
        Line::Row(rows[0].clone()),
        Line::Panel(panel),
        Line::Ended(Err("why".into())),
        Line::Ended(Ok(())),
    ] {
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line, "{text}");
    }
}

#[test]
fn axes_end_at_ticks_around_what_they_show() {
    let (linear, log) = (Axis::linear(""), Axis::log(""));
    for (axis, numbers, ticks) in [
        (&linear, vec![3.0, 47.0], vec![0.0, 10.0, 20.0, 30.0, 40.0, 50.0]),
        (&linear, vec![200.0], vec![0.0, 50.0, 100.0, 150.0, 200.0]),
        (&linear, vec![0.0], vec![0.0]),
        (&linear, vec![0.3], vec![0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (&log, vec![10.0, 2000.0], vec![10.0, 100.0, 1000.0, 10_000.0]),
        (&log, vec![3.0, 40.0], vec![2.0, 5.0, 10.0, 20.0, 50.0]),
        (&log, vec![7.0], vec![5.0, 10.0]),
        (&log, vec![10.0], vec![10.0, 20.0]),
        (&log, vec![0.0, f64::NAN], vec![1.0, 10.0]),
        (&log, vec![], vec![1.0, 10.0]),
    ] {
        let (low, high, found) = axis.range(numbers.iter().copied());
        assert!(
            numbers
                .iter()
                .all(|n| !n.is_finite() || *n <= 0.0 || (low <= *n && *n <= high)),
            "{numbers:?}: {low} to {high}"
        );
        assert!(low < high, "{numbers:?}: {low} to {high}");
        let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-9 * (1.0 + b.abs());
        let same = found.len() == ticks.len() && found.iter().zip(&ticks).all(near);
        assert!(same || ticks == [0.0], "{numbers:?}: {found:?}");
        assert!(axis.place(low, high, low).abs() < 1e-9 && (axis.place(low, high, high) - 1.0).abs() < 1e-9);
    }
    assert!((log.place(10.0, 1000.0, 100.0) - 0.5).abs() < 1e-9);
}

#[test]
fn drawings_hold_every_line_and_stay_well_formed() {
    let panel = |title: &str| Panel {
        title: title.into(),
        x: Axis::linear("containers"),
        y: Axis::log("<ms>"),
        series: vec![
            Series::new("dunlin", vec![(1.0, 2.0), (200.0, 4.0)]),
            Series::new("a & b", vec![(1.0, 200.0)]),
        ],
    };
    let text = chart::svg(&[panel("one"), panel("two"), panel("three")]);
    assert_eq!(text.matches("<polyline").count(), 6);
    assert_eq!(text.matches("<g ").count(), text.matches("</g>").count());
    assert!(text.contains("a &amp; b") && text.contains("&lt;ms&gt;") && !text.contains("NaN"));
    assert!(chart::svg(&[]).ends_with("</svg>\n"));
}
