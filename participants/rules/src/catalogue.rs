//! Every error that a user, a shop or an operator sees: its code, its texts in Chinese and English, and how it travels.
//!
//! A service answers [`Fault::status`]; whoever speaks with people reads it back with [`Fault::from_status`] and shows
//! [`Fault::text`] in their language. A new error is a line of the table below.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tonic_types::{ErrorDetails, StatusExt as _};

use crate::invalid::Invalid;
use crate::rules::Refusal;

/// Who says so, in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "tercet.coupon";

/// When the same may be tried again, where trying again helps.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The language of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// English.
    En,
    /// Chinese.
    Zh,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $code:ident, $http:literal, $zh:literal, $en:literal;)*) => {
        /// What went wrong, for programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {$(
            $(#[$doc])*
            $variant,
        )*}

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it stands in `google.rpc.ErrorInfo` and in HTTP's answers.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The code of gRPC.
            pub const fn grpc(self) -> tonic::Code {
                match self { $(Self::$variant => tonic::Code::$code),* }
            }

            /// The status of HTTP.
            pub const fn http(self) -> u16 {
                match self { $(Self::$variant => $http),* }
            }

            /// What it says, with `{name}` where an argument goes.
            pub const fn pattern(self, language: Language) -> &'static str {
                match language {
                    Language::Zh => match self { $(Self::$variant => $zh),* },
                    Language::En => match self { $(Self::$variant => $en),* },
                }
            }
        }
    };
}

codes! {
    /// Nothing is wrong with the request: come again.
    SystemBusy = "SYSTEM_BUSY", Unavailable, 503,
        "系统繁忙，请稍后重试", "The system is busy, please try again later";
    /// A field is wrong.
    Invalid = "INVALID", InvalidArgument, 400,
        "{field}：{limit_zh}", "{field}: {limit}";
    /// It does not exist.
    NotFound = "NOT_FOUND", NotFound, 404,
        "{what} {id} 不存在", "{what} {id} does not exist";
    /// Somebody else has changed it since it was read: read again.
    Conflict = "CONFLICT", Aborted, 409,
        "数据已被他人修改（当前修订号 {revision}），请刷新后重试",
        "Someone else has changed it (it is at revision {revision}), please read it again";
    /// The life of the template does not allow it now.
    NotAllowed = "NOT_ALLOWED", FailedPrecondition, 409,
        "模板处于 {status} 状态，不能执行 {action}", "The template is {status}: {action} is not possible";
    /// There is no such version to do it with.
    WrongVersion = "WRONG_VERSION", FailedPrecondition, 409,
        "版本 {version} 不能执行 {action}", "Version {version} is not one for {action}";
    /// The key was used for another request.
    KeyReused = "KEY_REUSED", AlreadyExists, 409,
        "幂等键已用于另一个请求", "The idempotency key was used for another request";
    /// Not for this user.
    NotOffered = "NOT_OFFERED", FailedPrecondition, 403,
        "您暂不能领取此优惠券", "This coupon is not offered to you";
    /// Claims are stopped for a while.
    Paused = "PAUSED", FailedPrecondition, 409,
        "领取已暂停，请稍后再来", "It can not be claimed for now, please come again later";
    /// Claims have not begun.
    NotStarted = "NOT_STARTED", FailedPrecondition, 409,
        "领取尚未开始", "It can not be claimed yet";
    /// Claims have ended.
    Over = "OVER", FailedPrecondition, 409,
        "领取已结束", "It can not be claimed any more";
    /// There are no more.
    SoldOut = "SOLD_OUT", FailedPrecondition, 409,
        "优惠券已被领完", "It is sold out";
    /// The user has all that he may have.
    PerUserLimit = "PER_USER_LIMIT", FailedPrecondition, 409,
        "每人限领 {limit} 张", "Each user may claim {limit}";
    /// The user has all that he may have today.
    PerUserDayLimit = "PER_USER_DAY_LIMIT", FailedPrecondition, 409,
        "每人每天限领 {limit} 张", "Each user may claim {limit} a day";
    /// Another order has the coupon, or its claim has not ended.
    CouponTaken = "COUPON_TAKEN", FailedPrecondition, 409,
        "优惠券 {coupon_id} 当前不可用（{status}）", "Coupon {coupon_id} can not be used: it is {status}";
    /// The coupon's time has not come.
    NotYetValid = "NOT_YET_VALID", FailedPrecondition, 409,
        "优惠券尚未生效", "The coupon is not valid yet";
    /// The coupon's time is over.
    Expired = "EXPIRED", FailedPrecondition, 409,
        "优惠券已过期", "The coupon has expired";
    /// An operator has taken the coupon from its user.
    CouponVoided = "COUPON_VOIDED", FailedPrecondition, 409,
        "优惠券已作废", "The coupon has been voided";
    /// Nothing in the order is what the coupon is for.
    OutOfScope = "OUT_OF_SCOPE", FailedPrecondition, 409,
        "订单中没有适用此优惠券的商品", "Nothing in the order is what the coupon is for";
    /// The order costs too little.
    BelowThreshold = "BELOW_THRESHOLD", FailedPrecondition, 409,
        "还差 {missing} 元可用", "The order is {missing} yuan short of it";
    /// It may not be used beside the others.
    NotStackable = "NOT_STACKABLE", FailedPrecondition, 409,
        "优惠券 {coupon_id} 不能与其他所选优惠券同时使用", "Coupon {coupon_id} can not be used together with the others";
    /// Beside the others it takes nothing off.
    NoGain = "NO_GAIN", FailedPrecondition, 409,
        "优惠券 {coupon_id} 不会带来更多优惠", "Coupon {coupon_id} takes nothing more off";
    /// The user was shown another amount.
    AmountChanged = "AMOUNT_CHANGED", FailedPrecondition, 409,
        "优惠金额现为 {discount} 元，请重新确认", "The coupons take off {discount} yuan now, please look again";
    /// There is an order of this number.
    OrderExists = "ORDER_EXISTS", AlreadyExists, 409,
        "订单 {order_id} 已存在", "Order {order_id} exists";
    /// There are not so many units of a product.
    OutOfStock = "OUT_OF_STOCK", FailedPrecondition, 409,
        "商品 {product_id} 库存不足", "Product {product_id} is out of stock";
    /// Nobody has ever supplied a product.
    NotStocked = "NOT_STOCKED", FailedPrecondition, 409,
        "商品 {product_id} 未设置库存", "Product {product_id} has never been supplied";
    /// The order does not stand where it can be taken back.
    NotRefundable = "NOT_REFUNDABLE", FailedPrecondition, 409,
        "订单 {order_id} 当前不能退款", "Order {order_id} can not be refunded now";
    /// The order came to nothing, or was taken back before it was paid.
    OrderClosed = "ORDER_CLOSED", FailedPrecondition, 409,
        "订单 {order_id} 已关闭，不能付款", "Order {order_id} is closed and can not be paid";
    /// The order was taken back after it was paid.
    OrderRefunded = "ORDER_REFUNDED", FailedPrecondition, 409,
        "订单 {order_id} 已退款，不能付款", "Order {order_id} was refunded and can not be paid";
    /// The order was paid by another payment.
    OrderPaid = "ORDER_PAID", FailedPrecondition, 409,
        "订单 {order_id} 已由另一笔付款支付", "Order {order_id} was paid by another payment";
    /// The sum that was paid is not what the order costs.
    PaymentDiffers = "PAYMENT_DIFFERS", FailedPrecondition, 409,
        "订单 {order_id} 应付 {due} 元", "Order {order_id} costs {due} yuan";
    /// This installation has nothing that carries events.
    NoEvents = "NO_EVENTS", FailedPrecondition, 409,
        "未接入事件总线，无法使用此功能", "No events come here: this needs a broker";
    /// It is not written as the document says.
    Malformed = "MALFORMED", InvalidArgument, 400,
        "无法解析 {field}：{limit_zh}", "{field} can not be read: {limit}";
    /// There is no token.
    Unauthenticated = "UNAUTHENTICATED", Unauthenticated, 401,
        "请先登录", "Please sign in: a bearer token is needed";
    /// The token is not one, or lacks what it has to say.
    TokenInvalid = "TOKEN_INVALID", Unauthenticated, 401,
        "令牌无效：{detail_zh}", "The token is not valid: {detail}";
    /// The token is signed with a key that nobody here knows.
    TokenKey = "TOKEN_KEY_UNKNOWN", Unauthenticated, 401,
        "令牌的签名密钥未知", "The token is signed with an unknown key";
    /// The token is signed in another way than its key is for.
    TokenAlgorithm = "TOKEN_ALGORITHM", Unauthenticated, 401,
        "令牌的签名算法与密钥不符", "The token's algorithm is not that of its key";
    /// The token is signed by somebody else, or changed.
    TokenSignature = "TOKEN_SIGNATURE", Unauthenticated, 401,
        "令牌签名错误", "The token's signature is wrong";
    /// The token's time is over.
    TokenExpired = "TOKEN_EXPIRED", Unauthenticated, 401,
        "登录已过期，请重新登录", "The token has expired, please sign in again";
    /// The token's time has not come.
    TokenEarly = "TOKEN_NOT_YET_VALID", Unauthenticated, 401,
        "令牌尚未生效", "The token is not valid yet";
    /// The token is refused by name, or its bearer's tokens up to some time are.
    TokenRevoked = "TOKEN_REVOKED", Unauthenticated, 401,
        "令牌已被吊销，请重新登录", "The token has been revoked, please sign in again";
    /// The token is of another issuer.
    TokenIssuer = "TOKEN_ISSUER", Unauthenticated, 401,
        "令牌签发者不被信任", "The token's issuer is not trusted";
    /// The token is for somebody else.
    TokenAudience = "TOKEN_AUDIENCE", Unauthenticated, 401,
        "令牌不适用于此系统", "The token is not for this system";
    /// The caller has another role.
    Forbidden = "FORBIDDEN", PermissionDenied, 403,
        "没有权限：需要 {role} 角色", "Not allowed: the role {role} is needed";
    /// A shop asks for a user without his consent.
    ConsentNeeded = "CONSENT_NEEDED", Unauthenticated, 401,
        "需要用户为本店铺授权的令牌（x-user-authorization）",
        "The user's consent is needed: a token of his for this shop in x-user-authorization";
    /// The user has given his consent to another shop.
    ConsentOtherShop = "CONSENT_OTHER_SHOP", PermissionDenied, 403,
        "用户的授权属于其他店铺", "The user's consent is for another shop";
    /// The user has given his consent to one order, and this is not it.
    ConsentOtherOrder = "CONSENT_OTHER_ORDER", PermissionDenied, 403,
        "用户的授权仅限订单 {order_id}", "The user's consent is for order {order_id} alone";
    /// A shop sells its own products only.
    OtherShop = "OTHER_SHOP", PermissionDenied, 403,
        "订单中有其他店铺的商品", "The order has products of another shop";
    /// There is no such address.
    NoRoute = "NO_ROUTE", Unimplemented, 404,
        "地址 {path} 不存在", "There is nothing at {path}";
    /// The address knows other methods.
    NoMethod = "METHOD_NOT_ALLOWED", Unimplemented, 405,
        "地址 {path} 不支持 {method}", "{method} is not possible at {path}";
    /// The request came too slowly.
    TooSlow = "REQUEST_TIMEOUT", Cancelled, 408,
        "请求发送过慢", "The request did not come in time";
    /// The request is too large.
    TooLarge = "PAYLOAD_TOO_LARGE", ResourceExhausted, 413,
        "请求过大，最多 {limit} 字节", "The request is too large: at most {limit} bytes";
    /// The request's body is not JSON.
    NotJson = "UNSUPPORTED_MEDIA_TYPE", InvalidArgument, 415,
        "请求体须为 application/json", "The body has to be application/json";
    /// The caller asks too often.
    TooMany = "TOO_MANY_REQUESTS", ResourceExhausted, 429,
        "操作过于频繁，请 {seconds} 秒后重试", "Too many requests, please try again in {seconds} s";
    /// The server is at fault.
    Internal = "INTERNAL", Internal, 500,
        "系统内部错误，请求号 {request_id}", "Something is wrong on our side, with request {request_id}";
    /// Nothing is known of the outcome: the same again, with its idempotency key, finds it.
    Timeout = "TIMEOUT", DeadlineExceeded, 504,
        "处理超时，结果未知，请用同一幂等键重试", "It took too long and its outcome is unknown, please try the same again";
}

/// An error with what its text needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text(Language::En))]
pub struct Fault {
    /// Which.
    pub code: Code,
    arguments: BTreeMap<String, String>,
}

impl Code {
    /// The code of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }

    /// A fault with what the text of this code needs.
    pub fn fault<const N: usize>(self, arguments: [(&str, String); N]) -> Fault {
        let arguments = arguments.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Fault { code: self, arguments }
    }
}

impl Fault {
    /// One that was told elsewhere, with what its text needs.
    pub const fn new(code: Code, arguments: BTreeMap<String, String>) -> Self {
        Self { code, arguments }
    }

    /// For people.
    pub fn text(&self, language: Language) -> String {
        let mut text = String::new();
        let mut rest = self.code.pattern(language);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').unwrap_or((after, ""));
            text.push_str(before);
            let value = self.argument(name).unwrap_or_default();
            text.push_str(match language {
                Language::Zh => chinese(name, value),
                Language::En => value,
            });
            rest = after;
        }
        text + rest
    }

    /// All that the text needs, by name.
    pub const fn arguments(&self) -> &BTreeMap<String, String> {
        &self.arguments
    }

    /// What the text needs, by its name.
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.arguments.get(name).map(String::as_str)
    }

    /// As a service answers it.
    pub fn status(&self) -> tonic::Status {
        let mut details = ErrorDetails::new();
        let arguments = self.arguments.clone().into_iter().collect::<HashMap<_, _>>();
        details.set_error_info(self.code.name(), DOMAIN, arguments);
        if self.code == Code::Invalid {
            let argument = |name| self.argument(name).unwrap_or_default();
            details.add_bad_request_violation(argument("field"), argument("limit"));
        }
        if self.code == Code::SystemBusy {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        tonic::Status::with_error_details(self.code.grpc(), self.text(Language::En), details)
    }

    /// As a participant says it when it refuses, for people and programs: `PER_USER_LIMIT(limit=2): Each user may
    /// claim 2`. Arguments are numbers and names here.
    pub fn reason(&self) -> String {
        let plain = |value: &str| !value.contains(['=', ',', '(', ')', ':']);
        let arguments = self.arguments.iter().filter(|(_, value)| plain(value));
        let arguments: Vec<String> = arguments.map(|(name, value)| format!("{name}={value}")).collect();
        let arguments = if arguments.is_empty() { String::new() } else { format!("({})", arguments.join(",")) };
        format!("{}{arguments}: {}", self.code.name(), self.text(Language::En))
    }

    /// What a participant said, out of the reason for which a transaction was cancelled; `None` where it is not one of
    /// ours.
    pub fn from_reason(reason: &str) -> Option<Self> {
        // Before it stands who refused.
        let said = reason.split_once("refused: ").map_or(reason, |(_, said)| said);
        let (head, _) = said.split_once(':')?;
        let (code, arguments) = head.split_once('(').unwrap_or((head, ""));
        let arguments = arguments.trim_end_matches(')').split(',').filter_map(|argument| argument.split_once('='));
        let arguments = arguments.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Some(Self { code: Code::from_name(code)?, arguments })
    }

    /// What a service answered; `None` where it was not one of ours, or is newer.
    pub fn from_status(status: &tonic::Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        let code = Code::from_name(&info.reason).filter(|_| info.domain == DOMAIN)?;
        Some(Self { code, arguments: info.metadata.into_iter().collect() })
    }
}

/// What the services call things, in Chinese; anything else is a name or a number, and stays as it is.
fn chinese<'a>(argument: &str, value: &'a str) -> &'a str {
    match (argument, value) {
        ("what", "template") => "优惠券模板",
        ("what", "version") => "版本",
        ("what", "coupon") => "优惠券",
        ("what", "batch") => "批次",
        ("what", "order") => "订单",
        ("what", "product") => "商品",
        ("what", "occasion") => "发券活动",
        ("status", "draft") => "草稿",
        ("status", "gray") => "灰度",
        ("status", "published") => "已发布",
        ("status", "paused") => "已暂停",
        ("status", "ended") => "已结束",
        ("status", "claiming") => "领取中",
        ("status", "locked") => "已被订单锁定",
        ("status", "used") => "已使用",
        ("action", "set_rules") => "修改规则",
        ("action", "start_gray") => "开始灰度",
        ("action", "promote") => "全量发布",
        ("action", "roll_back") => "回滚",
        ("action", "pause") => "暂停",
        ("action", "resume") => "恢复",
        ("action", "end") => "结束",
        ("role", "user") => "用户",
        ("role", "shop") => "商家",
        ("role", "operator") => "运营",
        (_, value) => value,
    }
}

impl Invalid {
    /// Said of a request that could not even be read.
    pub fn malformed(self) -> Fault {
        self.told(Code::Malformed)
    }

    fn told(self, code: Code) -> Fault {
        let (limit, limit_zh) = (self.limit.text(Language::En), self.limit.text(Language::Zh));
        code.fault([("field", self.field), ("limit", limit), ("limit_zh", limit_zh)])
    }
}

impl From<Invalid> for Fault {
    fn from(error: Invalid) -> Self {
        error.told(Code::Invalid)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotOffered => Code::NotOffered.fault([]),
            Refusal::Paused => Code::Paused.fault([]),
            Refusal::Ended => Code::Over.fault([]),
            Refusal::NotStarted(at_ms) => Code::NotStarted.fault([("at_ms", at_ms.to_string())]),
            Refusal::Over(at_ms) => Code::Over.fault([("at_ms", at_ms.to_string())]),
            Refusal::PerUser(limit) => Code::PerUserLimit.fault([("limit", limit.to_string())]),
            Refusal::PerUserDay(limit) => Code::PerUserDayLimit.fault([("limit", limit.to_string())]),
            Refusal::NotYetValid(at_ms) => Code::NotYetValid.fault([("at_ms", at_ms.to_string())]),
            Refusal::Expired(at_ms) => Code::Expired.fault([("at_ms", at_ms.to_string())]),
            Refusal::OutOfScope => Code::OutOfScope.fault([]),
            Refusal::BelowThreshold(missing) => Code::BelowThreshold.fault([("missing", missing.to_string())]),
        }
    }
}
