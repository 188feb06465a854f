create table users (
    id bigint generated always as identity primary key,
    username text not null unique,
    email text not null unique,
    password text not null,
    bio text not null default '',
    image text
);

create table follows (
    follower bigint not null references users on delete cascade,
    followed bigint not null references users on delete cascade,
    primary key (follower, followed)
);

create table articles (
    id bigint generated always as identity primary key,
    slug text not null unique,
    author bigint not null references users on delete cascade,
    title text not null,
    description text not null,
    body text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table article_tags (
    article bigint not null references articles on delete cascade,
    tag text not null,
    primary key (article, tag)
);

create table favorites (
    user_id bigint not null references users on delete cascade,
    article bigint not null references articles on delete cascade,
    primary key (user_id, article)
);

create table comments (
    id bigint generated always as identity primary key,
    article bigint not null references articles on delete cascade,
    author bigint not null references users on delete cascade,
    body text not null,
    created_at timestamptz not null default now()
);
