//! Colours and signs that this terminal can show.

use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::{bar, border};

use super::series::Trend;

/// Kinds of terminals without colours, by the start of `TERM`.
const MONOCHROME: [&str; 7] = [
    "dumb", "unknown", "vt52", "vt100", "vt102", "vt220", "vt320",
];

/// Bars of a terminal that knows no blocks, from low to high.
const ASCII_BARS: bar::Set<'static> = bar::Set {
    full: "#",
    seven_eighths: "#",
    three_quarters: "+",
    five_eighths: "+",
    half: "=",
    three_eighths: "=",
    one_quarter: "-",
    one_eighth: ".",
    empty: " ",
};

const ASCII_BORDER: border::Set<'static> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

/// What the terminal can show. Whatever is told by a colour is told by a word as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Else bold and reverse only.
    pub colours: bool,
    /// Blocks, lines and arrows; else ASCII.
    pub blocks: bool,
}

impl Look {
    /// As the environment has it: `NO_COLOR`, `TERM` and the locale.
    #[must_use]
    pub fn of_environment() -> Self {
        let value = |name: &str| std::env::var(name).unwrap_or_default();
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .map(value)
            .into_iter()
            .find(|locale| !locale.is_empty());
        Self::of(
            &value("NO_COLOR"),
            &value("TERM"),
            &locale.unwrap_or_default(),
        )
    }

    /// Any value of `NO_COLOR` but the empty one means no colours (<https://no-color.org>).
    fn of(no_color: &str, term: &str, locale: &str) -> Self {
        let monochrome = term.is_empty()
            || term.ends_with("-m")
            || term.ends_with("-mono")
            || MONOCHROME.iter().any(|kind| term.starts_with(kind));
        let locale = locale.to_lowercase();
        Self {
            colours: no_color.is_empty() && !monochrome,
            blocks: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    fn coloured(self, colour: Color) -> Style {
        if self.colours {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    /// Names of figures.
    pub(super) fn label() -> Style {
        Style::new()
    }

    /// Figures.
    pub(super) fn figure() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn title(self) -> Style {
        self.coloured(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    pub(super) fn border(self) -> Style {
        self.coloured(Color::DarkGray)
    }

    /// The first line.
    pub(super) fn header(self) -> Style {
        if self.colours {
            Style::new().fg(Color::Black).bg(Color::Cyan)
        } else {
            Style::new().add_modifier(Modifier::REVERSED)
        }
    }

    pub(super) fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    /// Near a limit, or of little harm.
    pub(super) fn warning(self) -> Style {
        self.coloured(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    pub(super) fn bad(self) -> Style {
        if self.colours {
            self.coloured(Color::Red).add_modifier(Modifier::BOLD)
        } else {
            Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
        }
    }

    /// Bars and graphs.
    pub(super) fn bar(self) -> Style {
        self.coloured(Color::Blue)
    }

    pub(super) fn bars(self) -> bar::Set<'static> {
        if self.blocks {
            bar::NINE_LEVELS
        } else {
            ASCII_BARS
        }
    }

    pub(super) fn borders(self) -> border::Set<'static> {
        if self.blocks {
            border::PLAIN
        } else {
            ASCII_BORDER
        }
    }

    /// The sign of one cell that is filled to `share`, 0 to 1.
    pub(super) fn level(self, share: f64) -> &'static str {
        let bars = self.bars();
        let levels = [
            bars.empty,
            bars.one_eighth,
            bars.one_quarter,
            bars.three_eighths,
            bars.half,
            bars.five_eighths,
            bars.three_quarters,
            bars.seven_eighths,
            bars.full,
        ];
        // What is not nothing shows.
        let lowest = usize::from(share > 0.0);
        levels[super::words::cells_of(share, 8).max(lowest)]
    }

    /// A line of `width` cells that is filled from the left to `share`, 0 to 1.
    pub(super) fn meter(self, share: f64, width: usize) -> String {
        let filled = super::words::cells_of(share, width);
        let rest = if self.blocks { "·" } else { "." };
        self.bars().full.repeat(filled) + &rest.repeat(width - filled)
    }

    pub(super) fn arrow(self, trend: Trend) -> &'static str {
        match (trend, self.blocks) {
            (Trend::Up, true) => "↗",
            (Trend::Flat, true) => "→",
            (Trend::Down, true) => "↘",
            (Trend::Up, false) => "up",
            (Trend::Flat, false) => "flat",
            (Trend::Down, false) => "down",
        }
    }

    /// Between the source and the destination.
    pub(super) fn towards(self) -> &'static str {
        if self.blocks { "→" } else { "->" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_and_blocks_are_what_the_environment_allows() {
        let colours = |no_color, term| Look::of(no_color, term, "").colours;
        assert!(colours("", "xterm-256color") && colours("", "linux"));
        assert!(!colours("1", "xterm-256color"));
        for term in ["", "dumb", "vt100", "vt102-w", "xterm-mono"] {
            assert!(!colours("", term), "{term}");
        }
        let blocks = |locale| Look::of("", "xterm", locale).blocks;
        assert!(blocks("C.UTF-8") && blocks("de_DE.utf8"));
        assert!(!blocks("C") && !blocks("") && !blocks("de_DE.ISO-8859-1"));
    }

    #[test]
    fn levels_and_meters_stay_in_their_bounds() {
        for blocks in [true, false] {
            let look = Look {
                colours: false,
                blocks,
            };
            for share in [-1.0, 0.0, 0.001, 0.5, 1.0, 7.0, f64::NAN, f64::INFINITY] {
                assert_eq!(look.level(share).chars().count(), 1);
                assert_eq!(look.meter(share, 10).chars().count(), 10);
            }
            assert_eq!(look.level(0.0), " ");
            assert_ne!(look.level(0.001), " ");
        }
    }
}
