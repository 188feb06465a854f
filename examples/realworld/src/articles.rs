//! Articles, their tags, and who likes them.

use std::collections::{HashMap, HashSet};

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, Postgres, QueryBuilder};
use time::OffsetDateTime;
use time::serde::rfc3339;

use crate::App;
use crate::auth::{User, Viewer};
use crate::error::{Error, Result};
use crate::profiles::{self, Profile, profiles};

const COLUMNS: &str = "id, slug, author, title, description, body, created_at, updated_at";

#[derive(FromRow)]
struct Row {
    id: i64,
    slug: String,
    author: i64,
    title: String,
    description: String,
    body: String,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Article {
    slug: String,
    title: String,
    description: String,
    body: String,
    tag_list: Vec<String>,
    #[serde(with = "rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "rfc3339")]
    updated_at: OffsetDateTime,
    favorited: bool,
    favorites_count: i64,
    author: Profile,
}

#[derive(Serialize)]
pub(crate) struct One {
    article: Article,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Many {
    articles: Vec<Article>,
    articles_count: i64,
}

#[derive(Serialize)]
pub(crate) struct Tags {
    tags: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct Filter {
    tag: Option<String>,
    author: Option<String>,
    favorited: Option<String>,
    limit: Option<i64>,
    offset: Option<i64>,
}

#[derive(Deserialize)]
pub(crate) struct Body<T> {
    article: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewArticle {
    title: String,
    description: String,
    body: String,
    #[serde(default)]
    tag_list: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct Changes {
    title: Option<String>,
    description: Option<String>,
    body: Option<String>,
}

/// Articles as the viewer sees them.
async fn views(app: &App, viewer: Viewer, rows: Vec<Row>) -> Result<Vec<Article>> {
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let authors: Vec<i64> = rows.iter().map(|row| row.author).collect();
    let authors = profiles(app, viewer, &authors).await?;

    let tags: Vec<(i64, String)> = sqlx::query_as(
        "select article, tag from article_tags where article = any($1) order by tag",
    )
    .bind(&ids)
    .fetch_all(app.db.reader())
    .await?;
    let mut tags_of = HashMap::<i64, Vec<String>>::new();
    for (article, tag) in tags {
        tags_of.entry(article).or_default().push(tag);
    }

    let counts: Vec<(i64, i64)> = sqlx::query_as(
        "select article, count(*) from favorites where article = any($1) group by article",
    )
    .bind(&ids)
    .fetch_all(app.db.reader())
    .await?;
    let counts: HashMap<i64, i64> = counts.into_iter().collect();

    let mut favorites = HashSet::new();
    if let Viewer(Some(viewer)) = viewer {
        let rows: Vec<i64> = sqlx::query_scalar(
            "select article from favorites where user_id = $1 and article = any($2)",
        )
        .bind(viewer)
        .bind(&ids)
        .fetch_all(app.db.reader())
        .await?;
        favorites.extend(rows);
    }

    let view = |row: Row| {
        Ok(Article {
            slug: row.slug,
            title: row.title,
            description: row.description,
            body: row.body,
            tag_list: tags_of.remove(&row.id).unwrap_or_default(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            favorited: favorites.contains(&row.id),
            favorites_count: counts.get(&row.id).copied().unwrap_or_default(),
            author: authors.get(&row.author).ok_or(Error::NotFound)?.clone(),
        })
    };
    rows.into_iter().map(view).collect()
}

async fn response(app: &App, viewer: Viewer, row: Row) -> Result<Json<One>> {
    let article = views(app, viewer, vec![row]).await?.pop().ok_or(Error::NotFound)?;
    Ok(Json(One { article }))
}

async fn by_slug(app: &App, slug: &str) -> Result<Row> {
    let statement = format!("select {COLUMNS} from articles where slug = $1");
    let query = sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(slug);
    Ok(query.fetch_one(app.db.reader()).await?)
}

/// The id of the article with this slug.
pub(crate) async fn id_of(app: &App, slug: &str) -> Result<i64> {
    let query = sqlx::query_scalar("select id from articles where slug = $1").bind(slug);
    Ok(query.fetch_one(app.db.reader()).await?)
}

pub(crate) async fn get(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Path(slug): Path<String>,
) -> Result<Json<One>> {
    let row = by_slug(&app, &slug).await?;
    response(&app, viewer, row).await
}

/// Adds the conditions of a filter to a statement on `articles`.
async fn filter(app: &App, query: &mut QueryBuilder<Postgres>, filter: &Filter) -> Result<()> {
    query.push(" where true");
    if let Some(tag) = &filter.tag {
        query.push(" and id in (select article from article_tags where tag = ");
        query.push_bind(tag.clone()).push(")");
    }
    if let Some(author) = &filter.author {
        query.push(" and author = ").push_bind(profiles::id_of(app, author).await?);
    }
    if let Some(user) = &filter.favorited {
        query.push(" and id in (select article from favorites where user_id = ");
        query.push_bind(profiles::id_of(app, user).await?).push(")");
    }
    Ok(())
}

pub(crate) async fn list(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Query(by): Query<Filter>,
) -> Result<Json<Many>> {
    let mut query = QueryBuilder::new(format!("select {COLUMNS} from articles"));
    filter(&app, &mut query, &by).await?;
    query.push(" order by created_at desc, id desc limit ");
    query.push_bind(by.limit.unwrap_or(20)).push(" offset ").push_bind(by.offset.unwrap_or(0));
    let rows = query.build_query_as().fetch_all(app.db.reader()).await?;

    let mut count = QueryBuilder::new("select count(*) from articles");
    filter(&app, &mut count, &by).await?;
    let articles_count = count.build_query_scalar().fetch_one(app.db.reader()).await?;
    Ok(Json(Many { articles: views(&app, viewer, rows).await?, articles_count }))
}

pub(crate) async fn feed(
    State(app): State<App>,
    User(user): User,
    Query(by): Query<Filter>,
) -> Result<Json<Many>> {
    let followed: Vec<i64> = sqlx::query_scalar("select followed from follows where follower = $1")
        .bind(user)
        .fetch_all(app.db.reader())
        .await?;
    let statement = format!(
        "select {COLUMNS} from articles where author = any($1)
         order by created_at desc, id desc limit $2 offset $3",
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(&followed)
        .bind(by.limit.unwrap_or(20))
        .bind(by.offset.unwrap_or(0))
        .fetch_all(app.db.reader())
        .await?;
    let articles_count: i64 =
        sqlx::query_scalar("select count(*) from articles where author = any($1)")
            .bind(&followed)
            .fetch_one(app.db.reader())
            .await?;
    Ok(Json(Many { articles: views(&app, Viewer(Some(user)), rows).await?, articles_count }))
}

pub(crate) async fn tags(State(app): State<App>) -> Result<Json<Tags>> {
    let query = sqlx::query_scalar("select distinct tag from article_tags order by tag");
    Ok(Json(Tags { tags: query.fetch_all(app.db.reader()).await? }))
}

pub(crate) async fn create(
    State(app): State<App>,
    User(user): User,
    Json(Body { article }): Json<Body<NewArticle>>,
) -> Result<(StatusCode, Json<One>)> {
    let statement = format!(
        "insert into articles (slug, author, title, description, body) values ($1, $2, $3, $4, $5)
         returning {COLUMNS}",
    );
    let mut transaction = app.db.begin().await?;
    let row: Row = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(slug(&article.title))
        .bind(user)
        .bind(article.title)
        .bind(article.description)
        .bind(article.body)
        .fetch_one(&mut *transaction)
        .await?;
    sqlx::query(
        "insert into article_tags (article, tag) select $1, unnest($2::text[])
         on conflict do nothing",
    )
    .bind(row.id)
    .bind(article.tag_list)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok((StatusCode::CREATED, response(&app, Viewer(Some(user)), row).await?))
}

pub(crate) async fn update(
    State(app): State<App>,
    User(user): User,
    Path(slug): Path<String>,
    Json(Body { article }): Json<Body<Changes>>,
) -> Result<Json<One>> {
    own(&app, user, &slug).await?;
    let statement = format!(
        "update articles set title = coalesce($2, title), description = coalesce($3, description),
            body = coalesce($4, body), slug = coalesce($5, slug), updated_at = now()
         where slug = $1 returning {COLUMNS}",
    );
    let row: Row = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(&slug)
        .bind(&article.title)
        .bind(article.description)
        .bind(article.body)
        .bind(article.title.as_deref().map(self::slug))
        .fetch_one(app.db.writer())
        .await?;
    response(&app, Viewer(Some(user)), row).await
}

pub(crate) async fn delete(
    State(app): State<App>,
    User(user): User,
    Path(slug): Path<String>,
) -> Result<StatusCode> {
    own(&app, user, &slug).await?;
    sqlx::query("delete from articles where slug = $1").bind(slug).execute(app.db.writer()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn favorite(
    State(app): State<App>,
    User(user): User,
    Path(slug): Path<String>,
) -> Result<Json<One>> {
    let row = by_slug(&app, &slug).await?;
    sqlx::query("insert into favorites (user_id, article) values ($1, $2) on conflict do nothing")
        .bind(user)
        .bind(row.id)
        .execute(app.db.writer())
        .await?;
    response(&app, Viewer(Some(user)), row).await
}

pub(crate) async fn unfavorite(
    State(app): State<App>,
    User(user): User,
    Path(slug): Path<String>,
) -> Result<Json<One>> {
    let row = by_slug(&app, &slug).await?;
    sqlx::query("delete from favorites where user_id = $1 and article = $2")
        .bind(user)
        .bind(row.id)
        .execute(app.db.writer())
        .await?;
    response(&app, Viewer(Some(user)), row).await
}

/// Whether the article is the user's own.
async fn own(app: &App, user: i64, slug: &str) -> Result<()> {
    let row = by_slug(app, slug).await?;
    if row.author == user { Ok(()) } else { Err(Error::Forbidden) }
}

/// What stands for a title in paths.
fn slug(title: &str) -> String {
    let words = title.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("-")
}
