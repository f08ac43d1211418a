CREATE TABLE users (id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY, email text NOT NULL);
CREATE TABLE mails (user_id integer NOT NULL REFERENCES users (id), address text NOT NULL);
