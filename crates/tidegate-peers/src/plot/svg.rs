//! Two kinds of charts, as SVG: lines, and bars.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 330.0;

/// Told apart by those who see few colours too, on white and on black (Okabe and Ito, "Color Universal Design").
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// How an axis counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    Logarithmic,
}

pub(super) struct Axis {
    pub(super) name: String,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) scale: Scale,
}

pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    /// Drawn apart from the others.
    pub(super) is_ours: bool,
}

impl Axis {
    pub(super) fn new(name: &str, from: f64, to: f64, scale: Scale) -> Self {
        Self { name: name.to_owned(), from, to, scale }
    }

    /// Where a value is, from 0 to 1.
    fn at(&self, value: f64) -> f64 {
        let (from, to, value) = match self.scale {
            Scale::Linear => (self.from, self.to, value),
            Scale::Logarithmic => {
                (self.from.log10(), self.to.log10(), value.max(self.from).log10())
            }
        };
        ((value - from) / (to - from)).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = round_step((self.to - self.from) / 5.0);
                let first = (self.from / step).ceil();
                let ticks = (0..20_u32).map(|n| (first + f64::from(n)) * step);
                ticks.take_while(|tick| *tick <= self.to * 1.0001).collect()
            }
            Scale::Logarithmic => {
                let tens = (-6..10).map(|power| 10_f64.powi(power));
                tens.filter(|ten| *ten >= self.from * 0.999 && *ten <= self.to * 1.001).collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten.
fn round_step(about: f64) -> f64 {
    let ten = 10_f64.powf(about.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| times * ten >= about * 0.999);
    times.unwrap_or(10.0) * ten
}

/// Lines over two axes, with their names beside.
pub(super) fn lines(title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    let (mut body, across) = (String::new(), |value| LEFT + x.at(value) * (RIGHT - LEFT));
    let up = |value| BOTTOM - y.at(value) * (BOTTOM - TOP);
    for tick in y.ticks() {
        let at = up(tick);
        push(&mut body, format_args!("<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/>"));
        text(&mut body, (LEFT - 6.0, at + 4.0), "end", &number(tick));
    }
    for tick in x.ticks() {
        let at = across(tick);
        push(&mut body, format_args!("<path class=\"grid\" d=\"M{at:.1} {TOP}V{BOTTOM}\"/>"));
        text(&mut body, (at, BOTTOM + 16.0), "middle", &number(tick));
    }
    text(&mut body, (f64::midpoint(LEFT, RIGHT), BOTTOM + 36.0), "middle", &x.name);
    text(&mut body, (LEFT - 50.0, TOP - 14.0), "start", &y.name);
    for (at, line) in lines.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let points: Vec<String> =
            line.points.iter().map(|(x, y)| format!("{:.1} {:.1}", across(*x), up(*y))).collect();
        let dashes = if at < COLOURS.len() { "" } else { " stroke-dasharray=\"6 4\"" };
        let path = points.join("L");
        push(
            &mut body,
            format_args!(
                "<path fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes} d=\"M{path}\"/>"
            ),
        );
        legend(&mut body, at, colour, &line.name);
    }
    whole(title, BOTTOM + 60.0 + legend_height(lines.len()), &body)
}

/// Bars from left to right, each with its spread, one below the other.
pub(super) fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    const NAMES: f64 = 190.0;
    let most = bars.iter().fold(0.0_f64, |most, bar| most.max(bar.most));
    let across = |value: f64| NAMES + value / most.max(f64::MIN_POSITIVE) * (RIGHT - 70.0 - NAMES);
    let (mut body, mut at) = (String::new(), TOP);
    text(&mut body, (NAMES, TOP - 14.0), "start", unit);
    for bar in bars {
        let colour = COLOURS[usize::from(!bar.is_ours)];
        let (end, least, most) = (across(bar.value), across(bar.least), across(bar.most));
        let (wide, middle) = (end - NAMES, at + 9.0);
        text(&mut body, (NAMES - 8.0, at + 13.0), "end", &bar.name);
        push(
            &mut body,
            format_args!(
                "<rect x=\"{NAMES}\" y=\"{at}\" width=\"{wide:.1}\" height=\"18\" fill=\"{colour}\"/>"
            ),
        );
        push(
            &mut body,
            format_args!("<path class=\"spread\" d=\"M{least:.1} {middle}H{most:.1}\"/>"),
        );
        text(&mut body, (most.max(end) + 8.0, at + 13.0), "start", &number(bar.value));
        at += 26.0;
    }
    whole(title, at + 10.0, &body)
}

fn legend(body: &mut String, at: usize, colour: &str, name: &str) {
    let (column, row) = (at % 3, at / 3);
    let x = LEFT + f64::from(u8::try_from(column).unwrap_or(0)) * 210.0;
    let y = BOTTOM + 60.0 + f64::from(u8::try_from(row).unwrap_or(0)) * 20.0;
    push(
        body,
        format_args!(
            "<rect x=\"{x}\" y=\"{}\" width=\"18\" height=\"4\" fill=\"{colour}\"/>",
            y - 6.0
        ),
    );
    text(body, (x + 24.0, y), "start", name);
}

fn legend_height(lines: usize) -> f64 {
    f64::from(u8::try_from(lines.div_ceil(3)).unwrap_or(0)) * 20.0
}

fn whole(title: &str, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\" role=\"img\"><title>{title}</title><style>text{{fill:#24292f}}.grid{{stroke:#d0d7de}}\
         .spread{{stroke:#24292f;stroke-width:2}}.ground{{fill:#fff}}\
         @media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}.grid{{stroke:#30363d}}.spread{{stroke:#e6edf3}}\
         .ground{{fill:#0d1117}}}}</style><rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
         <text x=\"20\" y=\"24\" font-size=\"16\">{title}</text>\n{body}</svg>\n"
    )
}

fn text(body: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    push(
        body,
        format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"),
    );
}

fn push(body: &mut String, element: std::fmt::Arguments<'_>) {
    // A string can be written to without fail.
    let _ = writeln!(body, "{element}");
}

/// As short as it can be said.
fn number(value: f64) -> String {
    match value.abs() {
        big if big >= 1e6 => format!("{}M", value / 1e6),
        big if big >= 1e4 => format!("{:.0}k", value / 1e3),
        big if big >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}").trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_within_the_axis() {
        let axis = |from, to, scale| Axis::new("", from, to, scale).ticks();
        assert_eq!(axis(0.0, 10.0, Scale::Linear), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(axis(1.0, 100.0, Scale::Logarithmic), [1.0, 10.0, 100.0]);
    }

    #[test]
    fn names_are_escaped_in_the_svg() {
        let line = Line { name: "<b>&".into(), points: vec![(0.0, 0.0), (1.0, 1.0)] };
        let axis = || Axis::new("x", 0.0, 1.0, Scale::Linear);
        assert!(lines("t", &axis(), &axis(), &[line]).contains("&lt;b>&amp;"));
    }
}
