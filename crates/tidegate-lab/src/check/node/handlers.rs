//! Handlers, and the ways in which they use each other's results.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use serde_json::{Map, Value};
use sqlx::{Column, Row};
use tidegate::Key;
use tokio::time::sleep;
use tower::ServiceExt;

use super::super::question::{Part, Piece, Question, many, next, pieces};
use super::{App, UPDATE};

/// A row's number, version and group.
type Line = (i32, i64, i32);
type Failed = (StatusCode, String);
type Answer = Result<String, Failed>;

const ONE: &str = "select id, version, grp from rows where id = $1";
const GROUP: &str = "select id, version, grp from rows where grp = $1";
const ALL: &str = "select id, version, grp from rows";
const SOME: &str = "select id, version, grp from rows where id = any ($1)";

pub(super) async fn row(State(app): State<App>, Path(row): Path<usize>) -> Answer {
    let line = app.read(row).await?;
    Ok(render(Part::Row(row), &[line]))
}

pub(super) async fn group(State(app): State<App>, Path(group): Path<u32>) -> Answer {
    let query = sqlx::query_as(GROUP).bind(group.cast_signed());
    let lines: Vec<Line> = query.fetch_all(app.db.reader()).await.map_err(unavailable)?;
    dawdle().await;
    Ok(render(Part::Group(group), &lines))
}

pub(super) async fn rows(State(app): State<App>) -> Answer {
    let query = sqlx::query_as(ALL).fetch_all(app.db.reader());
    let lines: Vec<Line> = query.await.map_err(unavailable)?;
    dawdle().await;
    Ok(render(Part::All, &lines))
}

pub(super) async fn page(State(app): State<App>, Path(page): Path<usize>) -> Answer {
    let mut text = String::new();
    for piece in pieces(page) {
        text += &app.piece(piece).await?;
        dawdle().await;
    }
    Ok(text)
}

pub(super) async fn value(
    State(app): State<App>,
    Path((way, number)): Path<(String, u32)>,
) -> Answer {
    let piece = Piece::named(&way, number).ok_or((StatusCode::NOT_FOUND, String::new()))?;
    app.piece(piece).await
}

/// Writes, and reads the write back through caches.
pub(super) async fn write(State(app): State<App>, Path(row): Path<usize>, body: String) -> Answer {
    let wanted = body.split_once(' ').and_then(|(version, group)| {
        Some((version.parse::<i64>().ok()?, group.parse::<u32>().ok()?))
    });
    let (version, group) = wanted.ok_or((StatusCode::BAD_REQUEST, String::new()))?;
    let update = sqlx::query(UPDATE).bind(version).bind(group.cast_signed()).bind([number(row)]);
    update.execute(app.db.writer()).await.map_err(unavailable)?;
    Ok(app.piece(Piece::One(row)).await? + &app.piece(Piece::Query(group)).await?)
}

pub(super) async fn schema(State(app): State<App>) -> Answer {
    let side: String = sqlx::query_scalar("select name from east")
        .fetch_one(app.db.reader())
        .await
        .map_err(unavailable)?;
    let label: String = sqlx::query_scalar("select state::text from labels")
        .fetch_one(app.db.reader())
        .await
        .map_err(unavailable)?;
    let wide = sqlx::query("select * from wide").fetch_one(app.db.reader()).await;
    let wide = wide.map_err(unavailable)?;
    dawdle().await;
    let columns = wide.columns().iter().map(|column| column.name().to_owned()).collect();
    Ok(render_schema(&side, &label, columns))
}

pub(super) async fn schema_values(State(app): State<App>) -> Answer {
    let query = async |sql: &'static str| {
        let found: Result<(String,), _> = app.queries.fetch_one(sqlx::query(sql)).await;
        found.map(|(text,)| text).map_err(unavailable)
    };
    let (side, label) = (query("select name from east"), query("select state::text from labels"));
    let (side, label) = (side.await?, label.await?);
    let wide = query("select to_jsonb(wide)::text from wide").await?;
    let wide: Map<String, Value> = serde_json::from_str(&wide).map_err(unavailable)?;
    Ok(render_schema(&side, &label, wide.keys().cloned().collect()))
}

impl App {
    /// The text of one piece of a page.
    fn piece(&self, piece: Piece) -> BoxFuture<'static, Answer> {
        let app = self.clone();
        Box::pin(async move {
            match piece {
                Piece::Read(row) => Ok(render(Part::Row(row), &[app.read(row).await?])),
                Piece::Route(question) => app.call(*question).await,
                Piece::Page(page) => app.call(Question::Page(page)).await,
                Piece::Row(row) => app.call(Question::Row(row)).await,
                Piece::Query(group) => app.query(group).await,
                Piece::One(row) => Ok(render(Part::Row(row), &[app.one(row).await?])),
                Piece::Nested(row) => app.nested(row).await,
                Piece::Many(row) => app.many(row).await,
            }
        })
    }

    async fn read(&self, row: usize) -> Result<Line, Failed> {
        let query = sqlx::query_as(ONE).bind(number(row)).fetch_one(self.db.reader());
        let line = query.await.map_err(unavailable)?;
        dawdle().await;
        Ok(line)
    }

    /// Another route, through its layer.
    async fn call(&self, question: Question) -> Answer {
        let routes = self.routes.get().cloned().unwrap_or_default();
        // The host is part of the key.
        let request = Request::get(question.path()).header("host", "check").body(Body::empty());
        let Ok(response) = routes.oneshot(request.map_err(unavailable)?).await;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(unavailable)?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        if status == StatusCode::OK { Ok(body) } else { Err((status, body)) }
    }

    async fn query(&self, group: u32) -> Answer {
        let query = sqlx::query(GROUP).bind(group.cast_signed());
        let lines: Vec<Line> = self.queries.fetch_all(query).await.map_err(unavailable)?;
        Ok(render(Part::Group(group), &lines))
    }

    async fn one(&self, row: usize) -> Result<Line, Failed> {
        let policy = self.rows.for_id(row);
        let app = self.clone();
        self.cache.get_or_load(&key(row), &policy, async move || app.read(row).await).await
    }

    async fn nested(&self, row: usize) -> Answer {
        let key = Key::new("nested").part(row.to_string()).finish();
        let app = self.clone();
        let load = async move || {
            let first = app.piece(Piece::One(row)).await?;
            Ok(first + &app.piece(Piece::Row(next(row))).await?)
        };
        self.cache.get_or_load(&key, &self.values, load).await
    }

    async fn many(&self, first: usize) -> Answer {
        let db = self.db.clone();
        let load = async move |missing: Vec<usize>| {
            let numbers: Vec<i32> = missing.into_iter().map(number).collect();
            let query = sqlx::query_as(SOME).bind(numbers).fetch_all(db.reader());
            let lines: Vec<Line> = query.await.map_err(unavailable)?;
            dawdle().await;
            let row = |line: &Line| usize::try_from(line.0).unwrap_or_default();
            Ok(lines.into_iter().map(|line| (row(&line), line)).collect::<HashMap<_, _>>())
        };
        // The key of `one`, so that each finds what the other stored.
        let found = self.cache.get_many(many(first), |row| key(*row), &self.rows, load).await?;
        let lines = many(first).map(|row| (row, found.get(&row).copied()));
        Ok(lines.map(|(row, line)| render(Part::Row(row), line.as_slice())).collect())
    }
}

fn key(row: usize) -> Key {
    Key::new("row").part(row.to_string()).finish()
}

fn number(row: usize) -> i32 {
    i32::try_from(row).unwrap_or(-1)
}

fn render(part: Part, lines: &[Line]) -> String {
    let lines = lines.iter().map(|(id, version, group)| format!("{id} {version} {group}\n"));
    part.to_string() + &lines.collect::<String>()
}

fn render_schema(side: &str, label: &str, mut columns: Vec<String>) -> String {
    columns.sort_unstable();
    let columns = columns.join(",");
    format!("{}side {side}\nlabel {label}\ncolumns {columns}\n", Part::Schema)
}

/// Delays some responses, so that they are out of date when they are ready.
async fn dawdle() {
    if fastrand::u8(..4) == 0 {
        sleep(Duration::from_millis(fastrand::u64(..40))).await;
    }
}

fn unavailable(error: impl Display) -> Failed {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}
