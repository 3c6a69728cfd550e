// OpenAI's client for Node, unmodified: `node openai_node.cjs CASE MODEL EMBEDDING_MODEL` prints one JSON line.
// Address and key come from the client's own environment variables; NODE_PATH says where it is installed.
"use strict";

const OpenAI = require("openai").default;
const { toFile } = require("openai");

const [, , wanted, model, embeddingModel] = process.argv;
const client = new OpenAI({ maxRetries: 0 });
const messages = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Is the flight late?" },
];
const schema = {
  type: "object",
  properties: { outlook: { type: "string", enum: ["on_time", "delayed"] }, minutes: { type: "integer" } },
  required: ["outlook", "minutes"],
  additionalProperties: false,
};
const tool = {
  type: "function",
  function: {
    name: "delay_of",
    description: "The delay of a flight in minutes.",
    parameters: { type: "object", properties: { flight: { type: "string" } }, required: ["flight"], additionalProperties: false },
  },
};

async function batchOf(endpoint, bodies) {
  const rows = bodies.map((body, number) => JSON.stringify({ custom_id: `r${number}`, method: "POST", url: endpoint, body }));
  const file = await client.files.create({ file: await toFile(Buffer.from(rows.join("\n")), "requests.jsonl"), purpose: "batch" });
  let batch = await client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h" });
  for (const end = Date.now() + 300_000; !["completed", "failed"].includes(batch.status); ) {
    if (Date.now() > end) throw new Error(`the batch is still ${batch.status}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
    batch = await client.batches.retrieve(batch.id);
  }
  if (batch.status !== "completed") throw new Error(JSON.stringify(batch.errors));
  const content = await (await client.files.content(batch.output_file_id)).text();
  return { counts: batch.request_counts, lines: content.trim().split("\n").map((line) => JSON.parse(line)) };
}

const cases = {
  async chat() {
    const made = await client.chat.completions.create({ model, messages, temperature: 0, max_completion_tokens: 16 });
    return { choice: made.choices[0], usage: made.usage };
  },
  async streaming() {
    const stream = await client.chat.completions.create({
      model, messages, temperature: 0, max_completion_tokens: 16, stream: true, stream_options: { include_usage: true },
    });
    let text = "";
    let usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    return { text, usage };
  },
  async structured() {
    const made = await client.chat.completions.parse({
      model, messages, temperature: 0, max_tokens: 64,
      response_format: { type: "json_schema", json_schema: { name: "outlook", strict: true, schema } },
    });
    return JSON.parse(made.choices[0].message.content);
  },
  async completions() {
    const made = await client.completions.create({ model, prompt: "The flight", max_tokens: 8, temperature: 0 });
    return made.choices[0].text;
  },
  async tools() {
    const asked = { model, tools: [tool], temperature: 0, max_tokens: 64 };
    const made = await client.chat.completions.create({ ...asked, messages, tool_choice: "required" });
    const turn = made.choices[0].message;
    const answered = await client.chat.completions.create({
      ...asked,
      tool_choice: "none",
      messages: [...messages, turn, { role: "tool", tool_call_id: turn.tool_calls[0].id, content: '{"minutes": 12}' }],
    });
    const runner = client.chat.completions.stream({ ...asked, messages, tool_choice: "required" });
    return {
      reason: made.choices[0].finish_reason,
      call: turn.tool_calls[0].function,
      answer: answered.choices[0].message.content,
      streamed: (await runner.finalChatCompletion()).choices[0].message.tool_calls[0].function,
    };
  },
  async several() {
    const made = await client.chat.completions.create({ model, messages, n: 3, max_tokens: 8 });
    return made.choices.map((choice) => choice.index);
  },
  async logprobs() {
    const made = await client.chat.completions.create({
      model, messages, logprobs: true, top_logprobs: 2, temperature: 0, max_tokens: 8,
    });
    const [choice] = made.choices;
    return { text: choice.message.content, tokens: choice.logprobs.content };
  },
  async embeddings() {
    const encoded = await client.embeddings.create({ model: embeddingModel, input: ["a late flight", "tea"] });
    const plain = await client.embeddings.create({ model: embeddingModel, input: "tea", encoding_format: "float" });
    return {
      sizes: encoded.data.map((one) => one.embedding.length),
      same: JSON.stringify(encoded.data[1].embedding) === JSON.stringify(plain.data[0].embedding),
      usage: encoded.usage,
    };
  },
  async models() {
    const names = [];
    for await (const one of client.models.list()) names.push(one.id);
    return { names, one: (await client.models.retrieve(model)).id };
  },
  async files() {
    const made = await client.files.create({ file: await toFile(Buffer.from("{}\n"), "one.jsonl"), purpose: "batch" });
    const content = await (await client.files.content(made.id)).text();
    const listed = [];
    for await (const one of client.files.list({ limit: 1 })) listed.push(one.id);
    const gone = await client.files.delete(made.id);
    return { content, listed: listed.includes(made.id), deleted: gone.deleted };
  },
  async batches() {
    const bodies = [0, 1, 2].map(() => ({ model, messages, temperature: 0, max_tokens: 8 }));
    return batchOf("/v1/chat/completions", bodies);
  },
  async embedding_batches() {
    return batchOf("/v1/embeddings", [{ model: embeddingModel, input: ["tea", "a late flight"] }]);
  },
  async errors() {
    const found = [];
    for (const asked of [
      () => client.chat.completions.create({ model: "nothing", messages }),
      () => client.chat.completions.create({ model, messages, temprature: 1 }),
      () => client.embeddings.create({ model: embeddingModel, input: [1, 2] }),
      () => new OpenAI({ apiKey: "ak_nobody", maxRetries: 0 }).models.list(),
    ]) {
      await asked().then(
        () => found.push(null),
        (error) => found.push([error.constructor.name, error.status, error.param ?? null]),
      );
    }
    return found;
  },
};

cases[wanted]()
  .then((made) => console.log(JSON.stringify(made)))
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
