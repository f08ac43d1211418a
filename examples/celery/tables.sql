-- tables.sql
CREATE TABLE orders (
    id           bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email        text    NOT NULL,
    receipt_sent boolean NOT NULL DEFAULT false
);
CREATE TABLE receipts (
    event_id uuid   PRIMARY KEY,
    order_id bigint NOT NULL,
    sent_by  text   NOT NULL
);
