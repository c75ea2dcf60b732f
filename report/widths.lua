-- Widths for the columns of a table that is too wide for the PDF's page: no word is broken, and long texts
-- take about as many lines in each column. Tables that fit keep the widths that their cells need. (The HTML scrolls instead.)
local PAGE, SMALL = 108, 122 -- characters that fit between the margins; in the appendix, in smaller print
local PAD = 2 -- what a cell's padding takes
local SLACK = 3 -- what a line loses because words are not broken

local function width(text)
  local total = 0
  for _, code in utf8.codes(text) do
    total = total + (code >= 0x2E80 and 2 or 1)
  end
  return total
end

-- The widest part of a text that cannot be broken: a word, or a few Chinese characters.
local function word(text)
  local latin, chinese = {}, 0
  for _, code in utf8.codes(text) do
    chinese = code >= 0x2E80 and 8 or chinese
    table.insert(latin, code >= 0x2E80 and " " or utf8.char(code))
  end
  local longest = chinese
  for part in table.concat(latin):gmatch("%S+") do
    longest = math.max(longest, width(part))
  end
  return longest
end

-- Names in code break after a dot, an underscore or a slash, as template.typ has it.
local function parts(code)
  return pandoc.Str((code.text:gsub("[%._/]", "%0 ")))
end

local function measure(tbl)
  local wanted, least = {}, {}
  local function rows(list)
    for _, row in ipairs(list) do
      for at, cell in ipairs(row.cells) do
        local text = pandoc.utils.stringify(cell.contents)
        local broken = pandoc.utils.stringify(cell.contents:walk({ Code = parts }))
        wanted[at] = math.max(wanted[at] or 0, width(text) + PAD)
        least[at] = math.max(least[at] or 0, word(broken) + PAD)
      end
    end
  end
  rows(tbl.head.rows)
  for _, body in ipairs(tbl.bodies) do
    rows(body.body)
  end
  return wanted, least
end

function Table(tbl)
  local wanted, least = measure(tbl)
  local page = #tbl.caption.long == 0 and SMALL or PAGE
  local given, total
  local lines = 0
  repeat -- as few lines to a cell as the page allows, the same for all columns
    lines, total, given = lines + 1, 0, {}
    for at, each in ipairs(wanted) do
      given[at] = math.max(least[at], math.ceil((each - PAD) / lines) + PAD + (lines > 1 and SLACK or 0))
      given[at] = math.min(given[at], each)
      total = total + given[at]
    end
  until total <= page or lines > 30
  if lines == 1 then
    return nil
  end
  for at, spec in ipairs(tbl.colspecs) do
    tbl.colspecs[at] = { spec[1], given[at] / total }
  end
  return tbl
end
