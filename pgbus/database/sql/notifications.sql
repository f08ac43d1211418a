-- name: notify
-- Send one notification.
SELECT pg_notify(CAST(:channel AS text), CAST(:payload AS text))
