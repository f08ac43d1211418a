// The protocol of a peer's program, as benchmarks/race/peer.py has it for Python.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// The packages of npm are in a directory of their own.
export const require = createRequire(`${process.env.RACE_MODULES}/peer.js`);

const now = () => (performance.timeOrigin + performance.now()) / 1000;
const cpu = () => {
  const used = process.cpuUsage();
  return (used.user + used.system) / 1e6;
};
const quantile = (values, part) => {
  const ordered = [...values].sort((a, b) => a - b);
  return ordered[Math.min(ordered.length - 1, Math.floor(ordered.length * part))];
};

export const payload = (number) => ({
  order_id: number,
  customer: "c".repeat(40),
  note: "n".repeat(70),
  amount: 12.5,
  currency: "EUR",
  paid: true,
  sent: now(),
});

class Handled {
  count = 0;
  first = 0;
  used = 0;
  ages = [];

  take(order) {
    if (!this.count) {
      this.first = now();
      this.used = cpu();
    }
    this.count += 1;
    if (this.count <= 5000) this.ages.push(1000 * (now() - order.sent));
  }

  report(ages) {
    return {
      handled: this.count,
      first: this.first,
      cpu: this.count ? cpu() - this.used : 0,
      ...(ages ? { ages: this.ages } : {}),
    };
  }
}

class Program {
  handled = new Handled();

  constructor(peer) {
    this.peer = peer;
  }

  versions() {
    const versions = Object.fromEntries(
      this.peer.packages.map((name) => [name, require(`${name}/package.json`).version]),
    );
    return { versions: { node: process.version.slice(1), ...versions } };
  }

  async set_up({ listeners, purpose }) {
    await this.peer.setUp(listeners, purpose);
    return {};
  }

  async open({ clients }) {
    await this.peer.open(clients);
    return {};
  }

  async transactions({ kind, clients, seconds }) {
    const times = [];
    const began = now();
    const used = cpu();
    const goOn = async (client) => {
      for (let number = 0; ; number += 1) {
        const start = now();
        if (start >= began + seconds) return;
        await this.peer.transact(kind, client, number);
        times.push(1000 * (now() - start));
      }
    };
    await Promise.all([...Array(clients).keys()].map(goOn));
    const taken = { seconds: now() - began, cpu: cpu() - used };
    return { count: times.length, ...taken, p50: quantile(times, 0.5), p99: quantile(times, 0.99) };
  }

  async bulk({ kind, count, listeners }) {
    const taken = { count, seconds: 0, cpu: 0 };
    for (let first = 0; first < count; first += this.peer.chunk) {
      const orders = [];
      for (let number = first; number < Math.min(count, first + this.peer.chunk); number += 1) {
        orders.push(payload(number));
      }
      const began = now();
      const used = cpu();
      await (kind === "publish" ? this.peer.bulk(orders, listeners) : this.peer.bareBulk(orders));
      taken.seconds += now() - began;
      taken.cpu += cpu() - used;
    }
    return taken;
  }

  async paced({ count }) {
    for (let number = 0; number < count; number += 1) {
      await new Promise((done) => setTimeout(done, 10 + 20 * Math.random()));
      await this.peer.transact("publish", 0, number);
    }
    return {};
  }

  async work({ listeners, purpose }) {
    await this.peer.work(listeners, this.handled, purpose);
    return {};
  }

  report({ ages }) {
    return this.handled.report(ages);
  }

  async left() {
    return { left: await this.peer.left() };
  }
}

export const serve = async (Peer) => {
  const program = new Program(new Peer(process.argv[2]));
  for await (const line of createInterface({ input: process.stdin })) {
    const { do: verb, ...fields } = JSON.parse(line);
    let answer;
    try {
      answer = await program[verb](fields);
    } catch (error) {
      answer = { error: String(error).slice(0, 2000) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit(0);
};
