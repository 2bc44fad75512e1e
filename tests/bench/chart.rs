//! Small drawings of how something grows, several in one SVG: axes, linear or logarithmic, with labelled ticks, and a line for each
//! who was measured.

use serde::{Deserialize, Serialize};

/// What a panel takes, and what its axes leave of that for the lines.
const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 40.0;
/// Panels beside one another.
const COLUMNS: usize = 2;
/// Of the lines, in their order; told apart by those who see no colours too.
const COLOURS: [(&str, &str); 3] = [("#0b6e4f", ""), ("#c4541a", "6 3"), ("#555588", "2 3")];

/// One drawing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Panel {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    pub label: String,
    /// Equal steps multiply; only for what is above zero.
    pub log: bool,
}

impl Axis {
    pub fn linear(label: &str) -> Axis {
        Axis {
            label: label.into(),
            log: false,
        }
    }

    pub fn log(label: &str) -> Axis {
        Axis {
            label: label.into(),
            log: true,
        }
    }

    /// What the axis shows of these numbers, and its ticks.
    pub fn range(&self, numbers: impl Iterator<Item = f64>) -> (f64, f64, Vec<f64>) {
        let numbers: Vec<f64> = numbers
            .filter(|number| number.is_finite() && (!self.log || *number > 0.0))
            .collect();
        let high = numbers.iter().copied().fold(f64::MIN, f64::max);
        let low = numbers.iter().copied().fold(f64::MAX, f64::min);
        if numbers.is_empty() {
            return (1.0, 10.0, vec![1.0, 10.0]);
        }
        if self.log {
            return log_range(low, high);
        }
        let step = step(if high > 0.0 { high } else { 1.0 });
        let count = (high / step - 1e-9).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|at| f64::from(at) * step).collect();
        (0.0, count * step, ticks)
    }

    /// Where a number lies between the axis' ends, 0 to 1.
    pub fn place(&self, low: f64, high: f64, number: f64) -> f64 {
        let part = |value: f64| if self.log { value.max(low).ln() } else { value };
        (part(number) - part(low)) / (part(high) - part(low))
    }
}

/// At most six steps of 1, 2 or 5 from nothing to this.
fn step(high: f64) -> f64 {
    let power = 10f64.powf((high / 5.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
    steps.into_iter().find(|step| high / step <= 6.0).unwrap_or(steps[3])
}

/// From a tick to a tick: those of 1, 2 and 5 where there are few powers of ten.
fn log_range(low: f64, high: f64) -> (f64, f64, Vec<f64>) {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let digits: &[f64] = if last - first > 2 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = (first..=last).flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
    let all: Vec<f64> = all.collect();
    let slack = 1.0 + 1e-9;
    let from = all.iter().rposition(|tick| *tick <= low * slack).unwrap_or(0);
    let to = all.iter().position(|tick| *tick * slack >= high);
    let to = to.unwrap_or(all.len() - 1).max(from + 1).min(all.len() - 1);
    let ticks = all[from.min(to - 1)..=to].to_vec();
    (ticks[0], ticks[ticks.len() - 1], ticks)
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(name: &str, points: Vec<(f64, f64)>) -> Series {
        Series {
            name: name.into(),
            points,
        }
    }
}

/// All panels in one drawing.
pub fn svg(panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(COLUMNS).max(1);
    let (width, height) = (WIDTH * COLUMNS as f64, HEIGHT * rows as f64);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"#222\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let (column, row) = (number % COLUMNS, number / COLUMNS);
        let (x, y) = (column as f64 * WIDTH, row as f64 * HEIGHT);
        text += &format!("<g transform=\"translate({x} {y})\">\n{}</g>\n", drawn(panel));
    }
    text + "</svg>\n"
}

fn drawn(panel: &Panel) -> String {
    let points = || panel.series.iter().flat_map(|series| &series.points);
    let (x_low, x_high, x_ticks) = panel.x.range(points().map(|point| point.0));
    let (y_low, y_high, y_ticks) = panel.y.range(points().map(|point| point.1));
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x_at = |number: f64| LEFT + panel.x.place(x_low, x_high, number) * (right - LEFT);
    let y_at = |number: f64| bottom - panel.y.place(y_low, y_high, number) * (bottom - TOP);
    let mut text = format!(
        "<text x=\"{LEFT}\" y=\"16\" font-weight=\"bold\">{}</text>\n",
        escaped(&panel.title)
    );
    for tick in y_ticks {
        let (y, word) = (y_at(tick), word(tick));
        text += &format!("<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>");
        text += &format!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{word}</text>\n",
            LEFT - 6.0,
            y + 4.0
        );
    }
    for tick in x_ticks {
        let (x, word) = (x_at(tick), word(tick));
        text += &format!("<path d=\"M{x:.1} {bottom}v4\" stroke=\"#222\"/>");
        text += &format!(
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{word}</text>\n",
            bottom + 16.0
        );
    }
    text += &format!("<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#222\"/>\n");
    let middle = (LEFT + right) / 2.0;
    let (x_label, y_label) = (escaped(&panel.x.label), escaped(&panel.y.label));
    text += &format!(
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{x_label}</text>\n",
        HEIGHT - 8.0
    );
    text += &format!("<text x=\"4\" y=\"{}\">{y_label}</text>\n", TOP - 8.0);
    for (number, series) in panel.series.iter().enumerate() {
        let (colour, dashes) = COLOURS[number % COLOURS.len()];
        let place = |&(x, y): &(f64, f64)| format!("{:.1},{:.1}", x_at(x), y_at(y));
        let all: Vec<String> = series.points.iter().map(place).collect();
        text += &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-dasharray=\"{dashes}\"/>\n",
            all.join(" ")
        );
        let y = TOP - 8.0;
        let x = right - 84.0 * (panel.series.len() - number) as f64;
        text += &format!(
            "<path d=\"M{x} {}h18\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-dasharray=\"{dashes}\"/>",
            y - 4.0
        );
        text += &format!("<text x=\"{}\" y=\"{y}\">{}</text>\n", x + 22.0, escaped(&series.name));
    }
    text
}

/// A tick's number.
fn word(number: f64) -> String {
    match number {
        thousands if thousands >= 10_000.0 => format!("{}k", thousands / 1000.0),
        // What multiplying left behind the last digit is none of its digits.
        other => format!("{}", (other * 1e6).round() / 1e6),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
