// Graphile Worker on node-postgres. Finished jobs are deleted.

import { payload, require, serve } from "../peer.mjs";

const { Logger, makeWorkerUtils, run } = require("graphile-worker");
const pg = require("pg");

const CONCURRENCY = 24; // of 10, 24, 100: the fastest
const LOCAL_QUEUE = 1000; // jobs that are fetched at once, of 500 to 2000; without it: a tenth of the rate
const COMPLETE_DELAY = 0; // ms, of 0 and 50: completes jobs in batches as soon as it can
const POOL = 10;

const TABLES = `
CREATE TABLE race_orders (id bigserial PRIMARY KEY, customer text NOT NULL, amount integer NOT NULL);
CREATE TABLE race_outbox (
    id bigserial PRIMARY KEY, topic text NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
);
`;
const ORDER = { name: "order", text: "INSERT INTO race_orders (customer, amount) VALUES ($1, $2)" };
const BY_HAND = { name: "hand", text: "INSERT INTO race_outbox (topic, payload) VALUES ($1, $2)" };
const PUBLISH = { name: "publish", text: "SELECT graphile_worker.add_job('race0', $1::json)" };
const BARE_BULK =
  "INSERT INTO race_outbox (topic, payload) SELECT $1, p::jsonb FROM unnest($2::text[]) AS p";
const BULK = `
SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
    SELECT json_populate_record(NULL::graphile_worker.job_spec, json_build_object('identifier', $1::text, 'payload', p::json))
    FROM unnest($2::text[]) AS p
))`;
const silent = new Logger(() => () => {});

class GraphileWorker {
  packages = ["graphile-worker", "pg"];
  chunk = 5000;

  constructor(dsn) {
    // node-postgres takes the directory of a socket from its options, not from the query of a URL without a host.
    const url = new URL(dsn.replace("@/", "@localhost/"));
    this.options = {
      user: decodeURIComponent(url.username),
      password: url.password ? decodeURIComponent(url.password) : undefined,
      host: url.searchParams.get("host") ?? url.hostname,
      port: Number(url.searchParams.get("port") ?? (url.port || 5432)),
      database: url.pathname.slice(1),
    };
  }

  async setUp() {
    const pool = new pg.Pool({ ...this.options, max: 2 });
    const utils = await makeWorkerUtils({ pgPool: pool, logger: silent });
    await utils.migrate();
    await pool.query(TABLES);
    await utils.release();
    await pool.end();
  }

  async open(clients) {
    this.clients = [];
    for (let number = 0; number < clients; number += 1) {
      const client = new pg.Client(this.options);
      client.on("error", () => {});
      await client.connect();
      this.clients.push(client);
    }
  }

  async transact(kind, client, number) {
    const connection = this.clients[client];
    await connection.query("BEGIN");
    await connection.query({ ...ORDER, values: ["order", number] });
    if (kind === "publish") {
      await connection.query({ ...PUBLISH, values: [JSON.stringify(payload(number))] });
    } else if (kind === "hand") {
      await connection.query({ ...BY_HAND, values: ["race.order_placed", JSON.stringify(payload(number))] });
    }
    await connection.query("COMMIT");
  }

  async bulk(orders, listeners) {
    const payloads = orders.map((order) => JSON.stringify(order));
    await this.clients[0].query("BEGIN");
    for (let number = 0; number < listeners; number += 1) {
      await this.clients[0].query(BULK, [`race${number}`, payloads]);
    }
    await this.clients[0].query("COMMIT");
  }

  async bareBulk(orders) {
    await this.clients[0].query(BARE_BULK, ["race.order_placed", orders.map((order) => JSON.stringify(order))]);
  }

  async work(listeners, handled) {
    const taskList = {};
    for (let number = 0; number < listeners; number += 1) {
      taskList[`race${number}`] = async (order) => handled.take(order);
    }
    const pool = new pg.Pool({ ...this.options, max: POOL });
    pool.on("error", () => {});
    await run({
      pgPool: pool,
      logger: silent,
      taskList,
      noHandleSignals: true,
      preset: {
        worker: {
          concurrentJobs: CONCURRENCY,
          completeJobBatchDelay: COMPLETE_DELAY,
          localQueue: { size: LOCAL_QUEUE },
          pollInterval: 2000,
        },
      },
    });
  }

  async left() {
    const { rows } = await this.clients[0].query("SELECT EXISTS (SELECT FROM graphile_worker._private_jobs) AS some");
    return rows[0].some;
  }
}

serve(GraphileWorker);
