DROP TABLE pgbus.received;
DROP TABLE pgbus.identity;
