//! Tests the operator page in a real browser. `scripts/browser` runs this.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(unexpected_cfgs, reason = "the features are those of the package that it belongs to")]
#[path = "../../../../tests/common/mod.rs"]
mod common;
mod driver;
#[path = "../../../../tests/common/followed.rs"]
mod followed;

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use common::{eventually, fetch};
use driver::Browser;
use followed::followed;
use tidegate::{Admin, CacheLayer, Database, Policy};
use tidegate_testing::Postgres;
use tokio::net::TcpListener;

/// A service with its page, and traffic on it that does not end.
struct Shop {
    _server: Postgres,
    app: Router,
    url: String,
}

impl Shop {
    async fn new() -> Self {
        let tables = "create table products (id int primary key, name text);
            create table \"<img src=x onerror=alert(1)>\" (id int);
            insert into products select i, 'product ' || i from generate_series(1, 200) i";
        let (server, db, cache) = followed(tables).await;
        let policy = Policy::ttl(Duration::from_mins(1)).tag("products:id={id}").audit(0.2);
        let layer = CacheLayer::new(cache).route("/products/{id}", policy);
        let app = Router::new()
            .route("/products/{id}", get(product))
            .route("/plain/{id}", get(product))
            .route("/evil", get(evil))
            .layer(layer.clone())
            .with_state(db.clone());
        let admin = Admin::new(&layer).database(&db).unprotected();
        let all = app.clone().nest("/ops/cache", admin.clone()).nest("/other/", admin);
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(socket, all).await });
        tokio::spawn(traffic(app.clone()));
        Self { _server: server, app, url }
    }
}

async fn product(State(db): State<Database>, Path(id): Path<i32>) -> String {
    let query = sqlx::query_scalar("select name from products where id = $1").bind(id);
    query.fetch_one(db.reader()).await.unwrap()
}

/// Reads a table whose name contains HTML, which the page must escape.
async fn evil(State(db): State<Database>) -> String {
    let query = "select count(*) from \"<img src=x onerror=alert(1)>\"";
    sqlx::query_scalar::<_, i64>(query).fetch_one(db.reader()).await.unwrap().to_string()
}

async fn traffic(app: Router) {
    loop {
        for id in [1, 1, 2, 3, 5, 8, fastrand::i32(1..=200)] {
            fetch(&app, &format!("/products/{id}")).await;
        }
        fetch(&app, &format!("/plain/{}", fastrand::i32(1..=9))).await;
        fetch(&app, "/evil").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_operator_can_monitor_invalidate_and_switch_off_the_cache_in_a_browser() {
    let shop = Shop::new().await;
    let browser = Browser::start().await;
    browser.open(&format!("{}/ops/cache", shop.url)).await;
    let is_live = async || {
        let routes = browser.text("#routes tbody").await;
        let drawn =
            browser.value("document.querySelector('#hits path')?.getAttribute('d') ?? ''").await;
        routes.contains("/products/{id}") && drawn.as_str().unwrap().contains('L')
    };
    eventually("there are figures", is_live).await;
    assert!(browser.text("#node").await.contains("epoch"));
    assert!(browser.text("#servers tbody").await.starts_with("primary"));
    assert!(browser.text("#tiles").await.contains(" %"));
    let routes = browser.text("#routes tbody").await;
    assert!(routes.contains("<img src=x onerror=alert(1)> (not tracked)"), "{routes}");
    assert_eq!(browser.value("document.images.length").await, 0, "names are text");

    tiles_stand_in_one_row(&browser).await;
    look_it_up(&browser).await;
    make_invalid(&browser, &shop).await;
    switch_off_and_on(&browser, &shop).await;
    everything_can_be_reached_by_keyboard(&browser).await;
    browser.value("document.activeElement.blur(), scrollTo(0, 0)").await;
    browser.picture("wide", (1400, 1500), false).await;
    browser.picture("wide-dark", (1400, 1500), true).await;
    browser.picture("phone", (390, 1800), false).await;
    let overflow = browser.value("document.documentElement.scrollWidth - innerWidth").await;
    assert!(overflow.as_i64().unwrap() <= 0, "{overflow} pixels too wide for a phone");
    works_under_any_url(&browser, &shop).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.end().await;
}

async fn tiles_stand_in_one_row(browser: &Browser) {
    browser.resize(1400, 1500).await;
    let rows =
        "new Set([...document.querySelectorAll('.tile')].map((tile) => tile.offsetTop)).size";
    assert_eq!(browser.value(rows).await, 1);
}

/// With the credentials that an authentication layer requires, and with a slash at its end.
async fn works_under_any_url(browser: &Browser, shop: &Shop) {
    for url in [
        format!("{}/ops/cache", shop.url.replace("//", "//operator:secret@")),
        format!("{}/other/", shop.url),
    ] {
        browser.open(&url).await;
        let is_live = async || browser.text("#node").await.contains("epoch");
        eventually(&url, is_live).await;
        // What the node has kept is there at once.
        let hits =
            browser.value("document.querySelector('#hits path')?.getAttribute('d') ?? ''").await;
        assert!(hits.as_str().unwrap().contains('L'), "{url}: {hits}");
    }
}

async fn look_it_up(browser: &Browser) {
    browser.value("document.getElementById('url').focus()").await;
    browser.press("/products/1\u{E007}").await;
    let shown = async || browser.text("#explained").await.contains("tag products:id=1");
    eventually("the request is explained", shown).await;
    assert!(browser.text("#explained").await.starts_with("/products/1: "));
    browser.click("#suggest").await;
    let shown = async || browser.text("#suggested").await.contains("requests in");
    eventually("there are suggestions", shown).await;
}

async fn make_invalid(browser: &Browser, shop: &Shop) {
    browser.value("document.getElementById('tags').focus()").await;
    browser.press("products:id=1").await;
    browser.click("#invalidate button").await;
    assert!(browser.agree().await.contains("products:id=1"));
    let done = async || browser.text("#invalidated").await.contains("invalid from now on");
    eventually("it is reported", done).await;
    // The value may be personal, so the page shows a hash.
    let shown = async || browser.text("#changes tbody").await.contains("products:id=#");
    eventually("the change is in the list", shown).await;
    assert!(!fetch(&shop.app, "/products/1").await.0.is_empty());
}

async fn switch_off_and_on(browser: &Browser, shop: &Shop) {
    browser.click("#switch").await;
    browser.agree().await;
    let off = async || browser.value("document.getElementById('alarm').hidden").await == false;
    eventually("it is switched off", off).await;
    assert!(fetch(&shop.app, "/products/1").await.1.contains("off"));
    browser.click("#switch").await;
    let on = async || !fetch(&shop.app, "/products/1").await.1.contains("off");
    eventually("it is switched on", on).await;
    let calm = async || browser.value("document.getElementById('alarm').hidden").await == true;
    eventually("the alarm is over", calm).await;
}

async fn everything_can_be_reached_by_keyboard(browser: &Browser) {
    browser.value("document.activeElement.blur(), scrollTo(0, 0)").await;
    browser.click("h1").await;
    let mut reached = Vec::new();
    for _ in 0..30 {
        browser.press("\u{E004}").await;
        let name = browser
            .value("document.activeElement.id || document.activeElement.textContent.trim()")
            .await;
        reached.push(name.as_str().unwrap_or_default().to_owned());
    }
    for wanted in
        ["switch", "url", "headers", "Explain", "tags", "Invalidate on every node", "suggest"]
    {
        assert!(reached.iter().any(|name| name == wanted), "{wanted} is not among {reached:?}");
    }
}
