-- tables.sql
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL);
CREATE TABLE parcels (order_id bigint NOT NULL, item text NOT NULL);
