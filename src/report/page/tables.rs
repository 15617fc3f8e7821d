//! The tables of the page.

use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use maud::{Markup, html};

use super::super::errors::ErrorGroup;
use super::super::figures;
use crate::model::path::escape;
use crate::monitor::{Change, Event, History, Snapshot};
use crate::throttle::Resource;

/// Events listed; a page with more would be about nothing else.
const EVENTS_SHOWN_MAX: usize = 200;

pub(super) fn events(history: &History) -> Markup {
    let shown = history.events.len().min(EVENTS_SHOWN_MAX);
    let more = (history.events.len() - shown) as u64 + history.events_dropped;
    html! {
        section {
            h2 { "Throttles and adjustments" }
            @if shown == 0 { p { "No throttle engaged, and no limit was moved." } }
            @else {
                table {
                    thead { tr { th { "time" } th { "what" } th { "how" } } }
                    tbody { @for event in &history.events[..shown] { (row(event)) } }
                }
            }
            @if more > 0 { p { "and " (HumanCount(more)) " more" } }
        }
    }
}

fn row(event: &Event) -> Markup {
    let resource = event.resource.map_or("", Resource::name).to_uppercase();
    let (what, how) = match event.change {
        Change::Engaged { percent } => (resource, format!("engaged at {percent:.1} %")),
        Change::Released { percent } => (resource, format!("released at {percent:.1} %")),
        Change::Adjusted {
            limit,
            zone,
            from,
            to,
        } => {
            let (from, to) = (HumanCount(from), HumanCount(to));
            (limit.to_owned(), format!("{zone}: {from} → {to}"))
        }
    };
    html! { tr { td.number { (figures::time(event.at)) } td { (what) } td { (how) } } }
}

pub(super) fn latencies(snapshot: &Snapshot) -> Markup {
    html! {
        table {
            thead { tr {
                th { "" } th { "count" } th { "p50" } th { "p90" } th { "p99" } th { "p99.9" } th { "max" }
            } }
            tbody {
                @for latency in &snapshot.latencies {
                    @let histogram = &latency.histogram;
                    tr {
                        td { (figures::name(latency.what)) }
                        td.number { (HumanCount(histogram.len())) }
                        @for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
                            td.number {
                                (figures::time(Duration::from_nanos(histogram.value_at_quantile(quantile))))
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn slowest(snapshot: &Snapshot) -> Markup {
    html! {
        section {
            h2 { "Slowest directories" }
            @if snapshot.slowest.is_empty() { p { "They were not measured." } }
            @else {
                table {
                    thead { tr { th { "time" } th { "entries" } th { "directory" } } }
                    tbody {
                        @for slow in &snapshot.slowest {
                            tr {
                                td.number { (figures::time(slow.elapsed)) }
                                td.number { (HumanCount(slow.entries)) }
                                td.path { @if slow.path.is_empty() { "." } @else { (escape(&slow.path)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn errors(groups: &[ErrorGroup]) -> Markup {
    html! {
        section {
            h2 { "Errors" }
            @if groups.is_empty() { p { "None." } }
            @else {
                table {
                    thead { tr { th { "count" } th { "class" } th { "what" } th { "why" } th { "such as" } } }
                    tbody {
                        @for group in groups {
                            tr {
                                td.number { (HumanCount(group.count)) }
                                td { (group.class.name()) }
                                td { "cannot " (group.op.verb()) " " (group.side.name()) }
                                td { (group.cause) }
                                td.path { @for path in &group.paths { (path) br; } }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn cores(snapshot: &Snapshot) -> Markup {
    let load = &snapshot.load;
    html! {
        section {
            h2 { "Limits and cores at the end" }
            table {
                thead { tr { th { "" } th { "at most" } th { "limit" } th { "engaged" } } }
                tbody {
                    @for resource in Resource::ALL {
                        @let gauge = load.gauge(resource);
                        @let amount = |count| amount(resource, count);
                        tr {
                            td { (resource.name()) }
                            td.number { (amount(gauge.used_max)) }
                            td.number { (amount(gauge.limit)) }
                            td.number { (HumanCount(gauge.engagements)) " times" }
                        }
                    }
                }
            }
            @if !load.cores.is_empty() {
                table {
                    thead { tr { th { "CPU" } th { "directories queued" } th { "in flight" } th { "depth" } } }
                    tbody {
                        @for core in &load.cores {
                            tr {
                                td.number { (core.cpu) }
                                td.number { (HumanCount(core.dirs_queued)) }
                                td.number { (HumanCount(core.ops_in_flight)) }
                                td.number { (HumanCount(core.io_depth)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn amount(resource: Resource, count: u64) -> String {
    match resource {
        Resource::Memory => HumanBytes(count).to_string(),
        Resource::Files | Resource::Tasks => HumanCount(count).to_string(),
    }
}

pub(super) fn settings(settings: &[[String; 3]]) -> Markup {
    html! {
        section {
            h2 { "Settings" }
            table {
                thead { tr { th { "setting" } th { "value" } th { "from" } } }
                tbody {
                    @for [name, value, origin] in settings {
                        tr { td { (name) } td { (value) } td { (origin) } }
                    }
                }
            }
        }
    }
}
